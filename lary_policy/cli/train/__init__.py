"""`lary train`: lerobot-train, with every frame encoded once where that changes nothing."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lary_policy.errors import ConfigError, DatasetError

HELP = """usage: lary train --dataset.repo_id=NAME [--dataset.root=DIR] [--policy.encoder.name=dinov2-small]
                  [--steps=N] [--output_dir=DIR] [any flag of lerobot-train]

Trains `lary`, or LeRobot's policies on an encoder (--policy.type=lary_act, lary_diffusion, lary_vqbet,
lary_multi_task_dit), with LeRobot's own training loop. A frozen encoder gives the same latents of a frame
in every epoch, so they are computed once, before the first step, and stored. The checkpoint is the one that
lerobot-train would write. With augmented images, a trained encoder or mixed precision that would be wrong:
then frames are encoded at every step, as lerobot-train does, and a message says why.

settings of its own:
  --cache_latents=false      encode frames at every step
  --latents_dir=DIR          folder for latents, shared by all runs; `cache` beside --output_dir by default.
                             A checkpoint does not name it: give it again with --resume=true
  --latents_dtype=float16    half the disk of float32, rounded; the encoder's own dtype by default
  --latents_views=4          with --dataset.image_transforms.enable=true: four random looks of each image are
                             encoded once and drawn from, instead of a new one encoded at every step

other defaults than lerobot-train: --policy.type=lary --policy.push_to_hub=false, and
  --dataset.video_backend=pyav where torchcodec cannot be loaded (LeRobot would find out at length)

A run that is resumed sees the frames in the order of an uninterrupted one, also after the first epoch, where
lerobot-train starts the order anew. What draws random numbers (--policy.head=dit) draws others.

examples:
  lary train --dataset.repo_id=local/reach --dataset.root=data/reach --steps=2000 --output_dir=outputs/policy
  lary train --config_path=outputs/policy/checkpoints/last/pretrained_model/train_config.json --resume=true

`lerobot-train --help` lists all other flags.
"""
_INFO = "meta/info.json"
DEFAULTS = ("--policy.type=lary", "--policy.push_to_hub=false")


def main(verb: str, arguments: Sequence[str]) -> int:
    """Run the verb and return the exit code.

    Raises:
        LaryPolicyError: Anything wrong with settings, dataset, weights or stored latents.
    """
    if any(a in ("-h", "--help") for a in arguments):
        print(HELP)
        return 0
    for bare in (a for a in arguments if "=" in a and not a.startswith("-")):
        raise ConfigError(
            expected="flags as lerobot-train takes them",
            got=f"'{bare}'",
            fix=f"Write --{bare}; `lary train --help` has examples.",
        )
    require_dataset(arguments)
    with _command_line(["lerobot-train", *with_defaults(arguments)]):
        from lary_policy.cli.train.run import run

        run()
    return 0


def require_dataset(arguments: Sequence[str]) -> None:
    """Refuse a command line without a dataset, or with a folder that is none, before slow imports.

    Raises:
        ConfigError: No dataset is named.
        DatasetError: `--dataset.root` holds none, and the hub is not to be asked (HF_HUB_OFFLINE).
    """
    words = [word.partition("=") for word in arguments]
    spaced = dict(itertools.pairwise(arguments))  # as in `--dataset.root DIR`
    given = {name: text if equals else spaced.get(name, "") for name, equals, text in words}
    if not {"--config_path", "--dataset", "--dataset.repo_id"} & set(given):
        example = "--dataset.repo_id=local/reach --dataset.root=data/reach"
        alone = "--dataset.root" in given
        raise ConfigError(
            expected="--dataset.repo_id=<name>, by which LeRobot calls the dataset",
            got="--dataset.root alone" if alone else "no dataset",
            fix=f"Add {example.split()[0]}; of a folder any name will do."
            if alone
            else f"Example: lary train {example}; `lary train --help` has more.",
        )
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    root = Path(given["--dataset.root"]) if offline and "--dataset.root" in given else None
    if root is not None and "--config_path" not in given and not (root / _INFO).is_file():
        there = [
            str(p.parents[1]) for folder in (root, root.parent) for p in sorted(folder.glob(f"*/{_INFO}"))
        ]
        close = difflib.get_close_matches(str(root), there, n=1, cutoff=0) if there else []
        raise DatasetError(
            expected=f"a LeRobot dataset in {root}",
            got=f"no {_INFO}" if root.is_dir() else "no such folder",
            fix=f"Did you mean --dataset.root={close[0]}?"
            if close
            else "Check --dataset.root; with HF_HUB_OFFLINE nothing is downloaded.",
        )


def with_defaults(arguments: Sequence[str]) -> list[str]:
    """Add what `lary train` sets and lerobot-train does not, unless a file or a checkpoint says it."""
    given = {a.partition("=")[0] for a in arguments}
    if "--config_path" in given:
        return list(arguments)
    from_checkpoint = "--policy.path" in given or any(a.startswith("--reward_model.") for a in given)
    added = [
        default
        for default in DEFAULTS
        if default.partition("=")[0] not in given and not (from_checkpoint and "type" in default)
    ]
    return [*arguments, *added]


@contextlib.contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """Let LeRobot see a command line: it reads `sys.argv` while it parses and again when it validates."""
    before, sys.argv = sys.argv, arguments
    try:
        yield
    finally:
        sys.argv = before
