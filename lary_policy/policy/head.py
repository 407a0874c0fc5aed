"""The head of a policy: built as a probe's head is, and the loss it is trained with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor, nn

from lary_policy.actions import ActionCodec
from lary_policy.encoders import encoder_spec
from lary_policy.errors import HeadMismatchError
from lary_policy.heads import (
    ActionExpert,
    ActionExpertConfig,
    Batch,
    DiffusionExpert,
    DiffusionExpertConfig,
    HeadMeta,
    LatentShape,
    ModelConfig,
    PoolConfig,
    TokenGrid,
    build_module,
    head_kind,
    load_head,
    load_meta,
)
from lary_policy.policy.card import card_scores
from lary_policy.policy.configuration_lary import LaryConfig
from lary_policy.policy.encoder import ObservationEncoder

PolicyHead = ActionExpert | DiffusionExpert
# Names of a pool's and of each head's sizes, and of the policy's settings that they are.
_POOL = {
    "kind": "pool",
    "width": "pool_width",
    "grid": "pool_grid",
    "queries": "pool_queries",
    "num_heads": "pool_heads",
}
_HEADS: dict[str, tuple[Callable[..., ModelConfig], dict[str, str]]] = {
    "mlp": (ActionExpertConfig, {"width": "head_width", "num_blocks": "head_blocks"}),
    "dit": (
        DiffusionExpertConfig,
        {
            "width": "head_width",
            "depth": "head_blocks",
            "num_heads": "dit_heads",
            "mlp_ratio": "dit_mlp_ratio",
            "condition_dropout": "dit_dropout",
            "train_steps": "dit_train_steps",
            "sample_steps": "dit_sample_steps",
            "clip_sample": "dit_clip_sample",
        },
    ),
}


def head_model(config: LaryConfig) -> ModelConfig:
    """Return the sizes of the head that a policy's configuration describes; ConfigError if out of range."""
    pool = PoolConfig(**{theirs: getattr(config, ours) for theirs, ours in _POOL.items()})
    kind, names = _HEADS[config.head]
    return kind(**{theirs: getattr(config, ours) for theirs, ours in names.items()}, pool=pool)


def set_head_model(config: LaryConfig, model: ModelConfig) -> None:
    """Write the sizes of a head into a policy's configuration; inverse of `head_model`."""
    config.head = model.kind
    pool = model.pool  # type: ignore[attr-defined]  # heads of actions have one
    for values, names in ((model, _HEADS[model.kind][1]), (pool, _POOL)):
        for theirs, ours in names.items():
            setattr(config, ours, getattr(values, theirs))


def build_policy_head(
    config: LaryConfig, latent_shape: LatentShape, token_grid: TokenGrid | None, action_dim: int
) -> PolicyHead:
    """Build the untrained head of a policy that sees (t, c, n, d) latents, the n tokens perhaps in a grid.

    Raises:
        ConfigError: A size is out of range, or the pool needs a grid that the tokens lack.
    """
    model = head_model(config)
    state = config.robot_state_feature if config.use_proprio else None
    return build_module(  # type: ignore[return-value]
        model,
        latent_shape,
        chunk=config.chunk_size,
        action_dim=action_dim,
        proprio_dim=0 if state is None else state.shape[0],
        token_grid=token_grid,
        seed=int(torch.initial_seed() % 2**31),  # LeRobot seeds torch before it builds the policy
    )


def head_loss(
    head: nn.Module, model: ModelConfig, latents: Tensor, proprio: Tensor | None, targets: Tensor
) -> Tensor:
    """Return the loss of each number `[b k a]`, that of the probes' heads.

    A regression head is compared with its targets, a diffusion head with the noise in them; steps, noise and
    dropped conditions come from torch's global generator.

    Args:
        head: `ActionExpert` or `DiffusionExpert`, or what peft wraps around it.
        model: Its sizes; they say which of the two it is.
        latents: `[b t c n d]`.
        proprio: Normalised state `[b p]`, or None.
        targets: Normalised actions `[b k a]`.
    """
    objective = head_kind(model.kind).objective(model)
    return objective.loss(head, Batch(latents, targets, proprio), reduction="none")


def masked_mean(loss: Tensor, is_pad: Tensor | None, reduction: str) -> Tensor:
    """Average a loss `[b k a]` over the actions inside their episode: one number, or with `none` `[b]`.

    `is_pad`, bool `[b k]`, marks actions past the episode's end; None if there are none.
    """
    inside = torch.ones(loss.shape[:2], device=loss.device) if is_pad is None else (~is_pad).to(loss.dtype)
    per_sample = (loss.mean(-1) * inside).sum(1)
    if reduction == "none":
        return per_sample / inside.sum(1).clamp(min=1)
    return per_sample.sum() / inside.sum().clamp(min=1)


RESULT = "result.json"  # beside head.json: scores of the finished probe
PROBE_STATS = "_probe_stats"  # runtime attribute of a configuration, for its processors; not in config.json
_NO_POLICY = {
    "pair": "a head that needs the frame to be reached",
    "subgoal": "a head that needs the frame to be reached",
    "atomic": "a head that predicts classes",
}


def adopt_probe(config: LaryConfig) -> None:
    """Enter what the head of `config.head_from` decides: sizes, chunk, inputs, action mode, embodiment.

    Raises:
        HeadMismatchError: No policy can be made of the head, or the configuration names another encoder.
    """
    folder = Path(str(config.head_from))
    meta = load_meta(folder)
    _refuse(meta)
    if config.encoder.name != meta.encoder:
        raise HeadMismatchError(
            expected=f"encoder '{meta.encoder}', which the head was trained with",
            got=f"'{config.encoder.name}'",
            fix=f"Pass --policy.encoder.name={meta.encoder}.",
        )
    set_head_model(config, meta.model)
    spec = encoder_spec(meta.encoder)
    if config.encoder.image_px is None and spec.patch_px is not None and meta.token_grid is not None:
        config.encoder.image_px = meta.token_grid[-1] * spec.patch_px
    still = spec.latent.kind == "frame"
    # An encoder of pairs or clips saw the frame at the last plan and the present one, a chunk apart.
    config.n_obs_steps, config.observation_stride = (1, 1) if still else (2, meta.chunk)
    config.chunk_size = meta.chunk
    config.n_action_steps = config.n_action_steps or meta.chunk
    config.use_proprio = meta.proprio_stats is not None
    config.action_mode, config.use_relative_actions = meta.target, False
    config.relative_exclude_joints = []  # the embodiment says what stays absolute
    config.embodiment = meta.embodiment
    if meta.contract is not None:
        config.control_hz = meta.contract.control_hz
        config.action_feature_names = list(meta.contract.labels)
    config.action_dim = meta.action_dim
    result = folder / RESULT
    if not config.scores and result.is_file():  # of a cell of `lary probe`
        config.scores = card_scores(result)


def match_probe(config: LaryConfig, encoder: ObservationEncoder) -> None:
    """Compare a built encoder and the cameras with the head's; cameras are brought into the head's order.

    Raises:
        HeadMismatchError: The latents or the cameras are others, or the policy is loaded from a checkpoint.
    """
    meta = load_meta(Path(str(config.head_from)))
    if config.pretrained_path is not None:
        raise HeadMismatchError(
            expected="head_from or the checkpoint of a policy",
            got=f"{config.head_from} and {config.pretrained_path}",
            fix="Drop --policy.head_from: the checkpoint has a head.",
        )
    meta.require(fingerprint=encoder.fingerprint)
    given = {name.removeprefix("observation.images."): name for name in config.image_features}
    if set(given) != set(meta.cameras):
        raise HeadMismatchError(
            expected=f"cameras {', '.join(meta.cameras)}, which the head was trained with",
            got=", ".join(given),
            fix="Use a dataset or environment with these cameras, and only these.",
        )
    features = dict(config.input_features or {})
    ordered = {given[name]: features.pop(given[name]) for name in meta.cameras}
    config.input_features = {**ordered, **features}


def take_probe(config: LaryConfig, head: nn.Module, codec: ActionCodec | None, fingerprint: str) -> None:
    """Copy the probe's weights and statistics into a policy and note where they came from.

    The path is forgotten: checkpoints of the policy do not depend on it. `codec` are the policy's statistics,
    None for absolute actions; `fingerprint` is its encoder's.

    Raises:
        HeadMismatchError: Latents of another shape.
    """
    trained, meta = load_head(Path(str(config.head_from)), fingerprint=fingerprint)
    try:
        head.load_state_dict(trained.state_dict(), strict=True)
    except RuntimeError as error:
        raise HeadMismatchError(
            expected=f"a policy whose head sees latents {list(meta.latent_shape)} and the probe's state",
            got=" ".join(str(error).split()),
            fix="Use the encoder settings, cameras and state that the probe was trained with.",
        ) from error
    if codec is not None and meta.stats is not None:
        codec.fit(meta.stats, meta.proprio_stats)
    setattr(config, PROBE_STATS, probe_stats(meta))
    config.head_origin = f"{meta.label}, {meta.mode} probe of {meta.task}, seed {meta.seed}"
    config.head_from = None


def probe_stats(meta: HeadMeta) -> dict[str, dict[str, Tensor]]:
    """Return a head's statistics as LeRobot's processors take them."""
    pairs = {ACTION: meta.stats, OBS_STATE: meta.proprio_stats}
    return {
        key: {"mean": torch.tensor(stats.mean), "std": torch.tensor(stats.std)}
        for key, stats in pairs.items()
        if stats is not None
    }


def _refuse(meta: HeadMeta) -> None:
    """Refuse heads that cannot act on present frames alone, or whose output no environment takes."""
    reasons = []
    if meta.mode in _NO_POLICY:
        reasons.append(f"mode {meta.mode}, {_NO_POLICY[meta.mode]}")
    if meta.target not in ("absolute", "relative"):
        reasons.append(f"target {meta.target}, which is no chunk of actions")
    if meta.rotation != "native":
        reasons.append(f"rotation {meta.rotation}, which is not the embodiment's convention")
    if reasons:
        raise HeadMismatchError(
            expected="the head of a probe of mode policy, target absolute or relative, rotation native",
            got="; ".join(reasons),
            fix="Train one: `lary probe` with probes=[{mode: policy, target: relative, head: mlp-matched}].",
        )
