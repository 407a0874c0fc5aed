"""Configurations of heads: YAML of `configs/head` to frozen dataclasses."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args, get_type_hints

import yaml

from lary_policy.errors import ConfigError, HeadMismatchError, UnknownNameError
from lary_policy.heads.registry import QUESTIONS, Answer, ModelConfig, head_kind
from lary_policy.machine import Precision
from lary_policy.paths import choices, configs_dir

# What YAML may hold for a field of a plain type.
_PLAIN: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}
_ANSWERS: dict[Answer, str] = {"numbers": "numbers", "class": "classes"}


@dataclass(frozen=True)
class TrainConfig:
    """How a head is trained; but `precision`, the defaults are LARYBench's regression probe (protocol 5.3).

    Attributes:
        epochs: Passes over the train split.
        patience: Epochs without a better score on val after which training stops early, the schedule being
            that of all `epochs`; None: never. Only with select best.
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
    patience: int | None = None

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
            "patience >= 1 or null": self.patience is None or self.patience >= 1,
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
        model: Sizes; `model.kind` names the kind of head.
        train: Optimisation.
    """

    model: ModelConfig
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def label(self) -> str:
        """Short name used in scores, e.g. `mlp512-project32`."""
        return self.model.label


def list_head_configs(question: str | None = None) -> tuple[str, ...]:
    """Return the names of all head configurations in `configs/head`, or of those that fit a question."""
    names = choices("head")
    if question is None:
        return names
    return tuple(name for name in names if head_kind(load_head_config(name).model.kind).fits(question))


@functools.cache
def load_head_config(name: str) -> HeadConfig:
    """Read a head configuration from its YAML, once.

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
    return HeadConfig(parse_model_config(kind, values), _filled(TrainConfig, train, "head.train"))


def parse_model_config(kind: str, raw: Mapping[str, Any]) -> ModelConfig:
    """Turn a plain mapping into the model configuration of `kind`; inverse of `dataclasses.asdict`.

    Raises:
        UnknownNameError: The kind is unknown.
        ConfigError: A field is unknown or out of range.
    """
    return _filled(head_kind(kind).config, raw, "head")


def require_fit(model: ModelConfig, question: str) -> None:
    """Refuse a head for a question that it cannot answer.

    Raises:
        HeadMismatchError: It answers otherwise; the message names the configurations that fit.
        UnknownNameError: There is no such question.
    """
    kind = head_kind(model.kind)
    if not kind.fits(question):
        raise HeadMismatchError(
            expected=f"a head that answers with {_ANSWERS[QUESTIONS[question]]}, as the question "
            f"'{question}' needs",
            got=f"{model.label}, which answers with {_ANSWERS[kind.answer]}",
            fix=f"Choose one of {', '.join(list_head_configs(question))}.",
        )


def _filled[T](kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make a dataclass, and the dataclasses in it, from plain values."""
    if not isinstance(values, Mapping):
        raise ConfigError(
            expected=f"fields of {where} by name", got=repr(values), fix="Write {name: value, ...}."
        )
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(
            expected=f"fields of {where}: {', '.join(sorted(known))}",
            got=f"{', '.join(unknown)}",
            fix="Correct the spelling.",
        )
    types = get_type_hints(kind)
    nested = {
        name: _filled(types[name], value, f"{where}.{name}")
        for name, value in values.items()
        if is_dataclass(types[name]) and isinstance(value, Mapping)
    }
    wrong = [
        f"{name} {value!r}"
        for name, value in values.items()
        if types[name] in _PLAIN and (type(value) not in _PLAIN[types[name]])
    ]
    if wrong:
        raise ConfigError(
            expected=f"numbers and names in {where} of the types of {kind.__name__}",
            got="; ".join(wrong),
            fix="Correct the values.",
        )
    try:
        return kind(**{**values, **nested})
    except TypeError as error:  # a rule met a value of another type
        raise ConfigError(
            expected=f"values of {kind.__name__}",
            got=f"{error} in {where} {values}",
            fix="Correct the values.",
        ) from error
