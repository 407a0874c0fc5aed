"""Head configurations: YAML of `configs/head` to frozen dataclasses, and from these to modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

import torch
import yaml
from torch import nn

from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.heads.attentive import AttentiveProbe, AttentiveProbeConfig
from lary_policy.heads.dit import DiffusionExpert, DiffusionExpertConfig
from lary_policy.heads.mlp import ActionExpert, ActionExpertConfig
from lary_policy.heads.pool import LatentShape, PoolConfig, TokenGrid
from lary_policy.machine import Precision
from lary_policy.paths import choices, configs_dir

ModelConfig = ActionExpertConfig | DiffusionExpertConfig | AttentiveProbeConfig
Head = ActionExpert | DiffusionExpert | AttentiveProbe


@dataclass(frozen=True)
class TrainConfig:
    """How a head is trained; the defaults are LARYBench's regression probe (protocol section 5.3).

    Attributes:
        epochs: Passes over the train split.
        batch_size: Samples a step, over all processes together (the reference: 256 a process).
        lr: Peak learning rate of AdamW.
        weight_decay: Of all parameters.
        warmup_fraction: Part of all steps with a linearly rising rate.
        schedule: `constant` or `cosine` (to zero) after the warm-up.
        grad_clip: Largest gradient norm, or None.
        balanced: Draw classes equally often (protocol section 4.2); classes only.
        seed: Of the initial weights and the order of samples.
        precision: `auto`, `float32` or `bfloat16` (autocast; weights stay float32).
        device: Torch device.
        sweep: (lr, weight_decay) of each of several heads that are trained side by side, or empty for one
            head with `lr` and `weight_decay`.
        select: `best` keeps the weights of the best epoch on val, `last` those of the last epoch.
        val_precision: Precision of the scores on val; None computes them as in training.
        micro_batch: Samples computed at once, to save memory; gradients of a batch are summed. None: all.

    Raises:
        ConfigError: A value is out of range.
    """

    epochs: int = 20
    batch_size: int = 256
    lr: float = 1e-4
    weight_decay: float = 1e-4
    warmup_fraction: float = 0.1
    schedule: Literal["constant", "cosine"] = "constant"
    grad_clip: float | None = None
    balanced: bool = False
    seed: int = 42
    precision: Precision = "auto"
    device: str = "cpu"
    sweep: tuple[tuple[float, float], ...] = ()
    select: Literal["best", "last"] = "best"
    val_precision: Precision | None = None
    micro_batch: int | None = None

    @property
    def members(self) -> tuple[tuple[float, float], ...]:
        """(lr, weight_decay) of each trained head."""
        return self.sweep or ((self.lr, self.weight_decay),)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sweep", tuple(tuple(pair) for pair in self.sweep))  # YAML has lists
        rates = [pair[0] for pair in self.members if len(pair) == 2]
        rules = {
            "epochs >= 1": self.epochs >= 1,
            "batch_size >= 1": self.batch_size >= 1,
            "micro_batch >= 1 or null": self.micro_batch is None or self.micro_batch >= 1,
            "lr > 0": self.lr > 0,
            "weight_decay >= 0": self.weight_decay >= 0,
            "0 <= warmup_fraction < 1": 0 <= self.warmup_fraction < 1,
            "schedule constant or cosine": self.schedule in ("constant", "cosine"),
            "grad_clip > 0 or null": self.grad_clip is None or self.grad_clip > 0,
            "sweep of pairs (lr > 0, weight_decay >= 0)": len(rates) == len(self.members)
            and all(lr > 0 and decay >= 0 for lr, decay in self.members),
            "select best or last": self.select in ("best", "last"),
            "precision auto, float32 or bfloat16": self.precision in get_args(Precision),
            "val_precision auto, float32, bfloat16 or null": self.val_precision
            in (None, *get_args(Precision)),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ConfigError(expected="; ".join(broken), got=f"{self}", fix="Correct head.train.")


@dataclass(frozen=True)
class HeadConfig:
    """A head and its training, as in one YAML of `configs/head`.

    Attributes:
        model: Sizes; `model.kind` is `mlp` or `dit` (actions) or `attentive` (classes).
        train: Optimisation.
    """

    model: ModelConfig
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def label(self) -> str:
        """Short name used in scores, e.g. `mlp512-project32`."""
        return self.model.label


_MODELS: dict[str, type[ModelConfig]] = {
    c.kind: c for c in (ActionExpertConfig, DiffusionExpertConfig, AttentiveProbeConfig)
}


def list_head_configs() -> tuple[str, ...]:
    """Return the names of all head configurations in `configs/head`."""
    return choices("head")


def load_head_config(name: str) -> HeadConfig:
    """Read a head configuration from its YAML.

    Raises:
        UnknownNameError: There is no such file; the message lists the known ones.
        ConfigError: A field is unknown or out of range.
    """
    if name not in list_head_configs():
        raise UnknownNameError("head", name, list_head_configs())
    return parse_head_config(yaml.safe_load((configs_dir() / "head" / f"{name}.yaml").read_text()))


def parse_head_config(raw: Mapping[str, Any]) -> HeadConfig:
    """Turn a plain mapping (YAML, a resolved Hydra group) into a HeadConfig.

    Raises:
        UnknownNameError: The kind is unknown.
        ConfigError: A field is unknown or out of range.
    """
    values = dict(raw)
    kind, train = str(values.pop("kind", "")), values.pop("train", {})
    return HeadConfig(parse_model_config(kind, values), _build(TrainConfig, train, "head.train"))


def parse_model_config(kind: str, raw: Mapping[str, Any]) -> ModelConfig:
    """Turn a plain mapping into the model configuration of `kind`; inverse of `dataclasses.asdict`.

    Raises:
        UnknownNameError: The kind is unknown.
        ConfigError: A field is unknown or out of range.
    """
    if kind not in _MODELS:
        raise UnknownNameError("head kind", kind, _MODELS)
    values = dict(raw)
    if isinstance(values.get("pool"), Mapping):
        values["pool"] = _build(PoolConfig, values["pool"], "head.pool")
    return _build(_MODELS[kind], values, "head")


def build_action_expert(
    config: ActionExpertConfig,
    latent_shape: LatentShape,
    *,
    chunk: int,
    action_dim: int,
    proprio_dim: int = 0,
    token_grid: TokenGrid | None = None,
    seed: int = 0,
) -> ActionExpert:
    """Build an `ActionExpert` with initial weights that depend on `seed` alone."""
    return _seeded(
        lambda: ActionExpert(
            latent_shape,
            chunk,
            action_dim,
            pool=config.pool,
            width=config.width,
            num_blocks=config.num_blocks,
            proprio_dim=proprio_dim,
            token_grid=token_grid,
        ),
        seed,
    )


def build_diffusion_expert(
    config: DiffusionExpertConfig,
    latent_shape: LatentShape,
    *,
    chunk: int,
    action_dim: int,
    proprio_dim: int = 0,
    token_grid: TokenGrid | None = None,
    seed: int = 0,
) -> DiffusionExpert:
    """Build a `DiffusionExpert` with initial weights that depend on `seed` alone."""
    return _seeded(
        lambda: DiffusionExpert(
            latent_shape, chunk, action_dim, config, proprio_dim=proprio_dim, token_grid=token_grid
        ),
        seed,
    )


def build_attentive_probe(
    config: AttentiveProbeConfig, latent_shape: LatentShape, *, num_classes: int, seed: int = 0
) -> AttentiveProbe:
    """Build an `AttentiveProbe` with initial weights that depend on `seed` alone."""
    return _seeded(lambda: AttentiveProbe(latent_shape, num_classes, **asdict(config)), seed)


def _seeded[M: nn.Module](make: Callable[[], M], seed: int) -> M:
    """Build a module without touching the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _build[T](kind: type[T], values: Mapping[str, Any], where: str) -> T:
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(
            expected=f"fields of {where}: {', '.join(sorted(known))}",
            got=f"{', '.join(unknown)}",
            fix="Correct the spelling.",
        )
    return kind(**values)
