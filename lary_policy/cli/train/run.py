"""One run of `lary train`: decide about the cache, fill it, hand over to LeRobot's training loop."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from lerobot.configs import parser
from lerobot.datasets.sampler import EpisodeAwareSampler
from lerobot.scripts import lerobot_train
from lerobot.utils.import_utils import register_third_party_plugins

import lary_policy.policy.register  # noqa: F401  # the policy types, where the plugin is not installed
from lary_policy.cli.train.cache import require_readable, use_cache
from lary_policy.cli.train.config import LaryTrainConfig
from lary_policy.console import console
from lary_policy.errors import ConfigError
from lary_policy.policy import require_trusted_source
from lary_policy.policy.cache import TableDataset

# No `from __future__ import annotations` here: LeRobot's parser reads the type of `_parsed`'s argument.


def run() -> None:
    """Train as the command line says.

    Raises:
        LaryPolicyError: Anything wrong with settings, dataset, weights or stored latents.
    """
    register_third_party_plugins()
    for name in ("config_path", "policy.path"):
        if (source := parser.parse_arg(name)) is not None:
            require_trusted_source(source)
    try:
        cfg: LaryTrainConfig = _parsed()
        cfg.validate()
    except (ValueError, OSError) as error:
        raise ConfigError(
            expected="settings that lerobot-train accepts",
            got=str(error).rstrip("."),
            fix="See `lary train --help`.",
        ) from error
    if cfg.dataset is not None and cfg.dataset.episodes == []:
        raise ConfigError(
            expected="at least one episode to train on",
            got="--dataset.episodes=[]",
            fix="Leave it out for all episodes, or name some: --dataset.episodes=[0,1].",
        )
    require_readable(cfg)
    if cfg.trainable_config.pretrained_path is not None:  # which a file may have set
        require_trusted_source(cfg.trainable_config.pretrained_path)
    given = getattr(cfg.policy, "latents", None) is not None
    reason = why_uncached(cfg)
    if given and reason is not None:
        raise ConfigError(
            expected="settings under which the latents of policy.latents are right",
            got=reason,
            fix="Change the setting, or drop --policy.latents.",
        )
    if reason is None and not given:
        reason = use_cache(cfg)
    if reason is not None:
        console.print(f"  frames are encoded at every step, because of {reason}")
    with _our_parts():
        lerobot_train.train.__wrapped__(cfg)  # without LeRobot's parser, which reads the command line again


class ResumedSampler(EpisodeAwareSampler):
    """LeRobot's order of frames, continued where a run is resumed.

    LeRobot puts the sampler at the epoch of the checkpoint, but accelerate then sets the epoch to its own
    count, which starts at 0 in every process. So that count is added to the epoch of the checkpoint.
    """

    _first = 0

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from an epoch and a place in it."""
        super().load_state_dict(state)
        self._first = state["epoch"]

    def set_epoch(self, epoch: int) -> None:
        """Enter the n-th epoch since the sampler was put at its place."""
        super().set_epoch(self._first + epoch)


def _read_at_once(cfg: LaryTrainConfig) -> tuple[Any, Any]:
    """Return LeRobot's datasets for training and evaluation, as tables where they are numbers alone."""
    datasets = _LEROBOTS["make_train_eval_datasets"](cfg)
    train, evaluation = (TableDataset(one) if TableDataset.fits(one) else one for one in datasets)
    return train, evaluation


_OURS = {"EpisodeAwareSampler": ResumedSampler, "make_train_eval_datasets": _read_at_once}
_LEROBOTS = {name: getattr(lerobot_train, name) for name in _OURS}


@contextlib.contextmanager
def _our_parts() -> Iterator[None]:
    """Let LeRobot's training loop use our sampler and our tables meanwhile."""
    try:
        vars(lerobot_train).update(_OURS)
        yield
    finally:
        vars(lerobot_train).update(_LEROBOTS)


@parser.wrap()
def _parsed(cfg: LaryTrainConfig) -> LaryTrainConfig:
    """Return the settings of the command line, which LeRobot's parser passes in."""
    return cfg


def why_uncached(cfg: LaryTrainConfig) -> str | None:
    """Return the setting that makes stored latents wrong or useless, and why; None where they serve."""
    policy: Any = cfg.policy
    if not hasattr(policy, "why_uncached"):
        return f"policy.type={cfg.trainable_config.type}: it has no encoder of ours"
    trained = policy.encoder.trainable
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()  # of `accelerate launch`
    rounded = "the encoder rounds too, stored latents are not rounded"
    reasons = {
        f"job.target={cfg.job.target}: the run is on another machine": cfg.job.is_remote,
        "cache_latents=false": not cfg.cache_latents,
        "dataset.image_transforms.enable=true: frames look different at every step; --latents_views=4 "
        "would draw from four looks of each": cfg.dataset.image_transforms.enable and not cfg.latents_views,
        f"policy.encoder.trainable={trained}: latents change while the encoder learns": trained != "none",
        f"policy.use_amp=true: {rounded}": policy.use_amp,
        f"ACCELERATE_MIXED_PRECISION={launched}: {rounded}": launched != "no",
        "peft: latents change while adapters learn": cfg.peft is not None or policy.use_peft,
        "dataset.streaming=true: frames are not on this machine": cfg.dataset.streaming,
        "sample_weighting, which reads other files of the dataset": cfg.sample_weighting is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None) or policy.why_uncached()
