"""The schema of a probe suite on a source of files: which source, protocols, encoders, targets, heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lary_policy.actions import ROTATIONS, UNKNOWN_ROBOTS, action_target
from lary_policy.data import PROTOCOLS
from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.heads import HeadConfig, load_head_config, parse_head_config
from lary_policy.heads.training import list_loggers
from lary_policy.stages.config import (
    RESERVED_RUNS,
    EncoderChoice,
    check_latents,
    encoder_settings,
    named_cause,
)

LISTS = ("sources", "targets", "loggers")
PROTOCOL_CHOICES = {"native": ("native",), "lary": ("lary",), "both": PROTOCOLS}
# What a run trains where nothing is asked for. The reference's tables hold absolute targets and flattened
# latents; native results put relative targets and a head of one capacity for every encoder beside them.
DEFAULT_TARGETS = {"lary": ("absolute",), "native": ("absolute", "relative")}
DEFAULT_HEADS = {
    ("lary", "actions"): ("mlp-reference",),
    ("native", "actions"): ("mlp-reference", "mlp-matched"),
    ("lary", "classes"): ("attentive-sweep",),
    ("native", "classes"): ("attentive-sweep",),
}


@dataclass(frozen=True)
class SourceConfig:
    """Everything that a run on a source depends on.

    Attributes:
        source: Key of the source, or name of the group of `sources`.
        sources: Keys of several sources that one run and report cover; empty for `source` alone.
        encoders: Encoders to probe.
        data_dir: Folder of the source's files.
        options: Further settings of that source (configs/source/<key>.yaml).
        protocol: `native`, `lary` or `both`.
        heads: Heads to train; empty for `DEFAULT_HEADS`.
        targets: Action targets; empty for `DEFAULT_TARGETS`.
        rotation: Convention of predicted rotations: `native` or `rot6d`.
        unknown_robots: What rows of a blank or unknown robot type get under `native`: `error` or `pool`.
        statistics: JSON file of means and deviations that actions are normalised with, as the reference and
            `lary data statistics` write it; None for the training split's (under `lary` see `fit_scaling`).
        loggers: Where the history of trainings goes besides the results.
        attention: Test clips or pairs of each class probe whose attention is drawn.
        seed: Of heads, added to the seed of their configuration. Latents do not depend on it.
        seeds: Several seeds that one run and report cover; empty for `seed` alone.
        latents_dtype: How latents are stored, one of `LATENTS_DTYPES`.
        latents_ram_gb: Latents that a training may keep in memory (10^9 bytes); None for a quarter of what is
            free. Larger ones are read from disk batch by batch, with the same results.
        device: Torch device or `auto`.
        output_dir: Where results and the cache go.
        run: Name of the run's folder, or None for one with the date.
    """

    source: str
    encoders: tuple[EncoderChoice, ...]
    sources: tuple[str, ...] = ()
    data_dir: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)
    protocol: str = "native"
    heads: tuple[HeadConfig, ...] = ()
    targets: tuple[str, ...] = ()
    rotation: str = "native"
    unknown_robots: str = "error"
    statistics: Path | None = None
    loggers: tuple[str, ...] = ()
    attention: int = 4
    seed: int = 0
    seeds: tuple[int, ...] = ()
    latents_dtype: str = "auto"
    latents_ram_gb: float | None = None
    device: str = "auto"
    output_dir: Path = field(default_factory=lambda: Path("outputs"))
    run: str | None = None

    def __post_init__(self) -> None:
        for what, value, known in (
            ("protocol", self.protocol, PROTOCOL_CHOICES),
            ("rotation of targets", self.rotation, ROTATIONS),
            ("way to treat unknown robots", self.unknown_robots, UNKNOWN_ROBOTS[:2]),
        ):
            if value not in known:
                raise UnknownNameError(what, value, known)
        check_latents(self.latents_dtype, self.latents_ram_gb)
        for target in self.targets:
            action_target(target)
        for logger in self.loggers:
            if logger not in list_loggers():
                raise UnknownNameError("logger", logger, list_loggers())
        names = [choice.name for choice in self.encoders]
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                expected="at least one encoder, each once",
                got=f"[{', '.join(names)}]",
                fix="Pass encoders=[dinov2-small,pixels], or encoder=dinov2-small.",
            )
        if self.attention < 0:
            raise ConfigError(expected="attention >= 0", got=str(self.attention), fix="Pass attention=0.")
        plain = self.run is None or self.run == Path(self.run).name
        if not plain or self.run in ("", "..", *RESERVED_RUNS):
            raise ConfigError(
                expected=f"run as the plain name of a folder, other than {', '.join(RESERVED_RUNS)}",
                got=f"'{self.run}'",
                fix="Pass run=first-try, for example, and output_dir=<folder> for another place.",
            )

    @property
    def keys(self) -> tuple[str, ...]:
        """The sources to run, one after the other."""
        return self.sources or (self.source,)

    @property
    def every_seed(self) -> tuple[int, ...]:
        """The seeds of each head."""
        return self.seeds or (self.seed,)

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols to run, one after the other."""
        return PROTOCOL_CHOICES[self.protocol]

    def heads_for(self, protocol: str, kind: str) -> tuple[HeadConfig, ...]:
        """Return the heads to train on `actions` or `classes`; those of the other kind are for other sources.

        Raises:
            ConfigError: All heads predict the other kind.
        """
        heads = self.heads or tuple(load_head_config(name) for name in DEFAULT_HEADS[protocol, kind])
        heads = tuple(h for h in heads if (h.model.kind == "attentive") == (kind == "classes"))
        if not heads:
            raise ConfigError(
                expected=f"a head that predicts {kind}, as source {self.source} has them",
                got=", ".join(h.label for h in self.heads),
                fix=f"Pass heads=[{','.join(DEFAULT_HEADS[protocol, kind])}], for example.",
            )
        # The reference reports the last epoch; a native result is that of the epoch that val chose.
        return tuple(_selected(h) for h in heads) if protocol == "native" else heads

    def targets_for(self, protocol: str) -> tuple[str, ...]:
        """Return the names of the action targets; what the reference calls relative is `displacement`."""
        names = self.targets or DEFAULT_TARGETS[protocol]
        return tuple(dict.fromkeys(action_target(name, protocol=protocol).name for name in names))


def _selected(head: HeadConfig) -> HeadConfig:
    return replace(head, train=replace(head.train, select="best"))


def source_config(raw: Mapping[str, Any]) -> SourceConfig:
    """Turn a resolved Hydra config into a `SourceConfig`.

    The group choices `encoder` and `head`, where present, narrow `encoders` and `heads` to one. Settings that
    are no field are options of the source.

    Raises:
        ConfigError: A value has the wrong type.
        UnknownNameError: A protocol, target, head, encoder or logger does not exist.
    """
    import draccus

    values = dict(raw)
    encoder, head = values.pop("encoder", None), values.pop("head", None)
    encoders, heads = values.pop("encoders", None) or [], values.pop("heads", None) or []
    for name, value in (("encoders", encoders), ("heads", heads), *((n, values.get(n)) for n in LISTS)):
        if isinstance(value, str):
            raise ConfigError(expected=f"a list of {name}", got=f"'{value}'", fix=f"Write {name}=[{value}].")
    names = [encoder] if encoder is not None else encoders
    known = {f.name for f in fields(SourceConfig)}
    options = {k: v for k, v in values.items() if k not in known}
    plain = {k: v for k, v in values.items() if k in known and v is not None}
    plain["encoders"] = [n if isinstance(n, dict) else encoder_settings(n) for n in names]
    try:
        config = draccus.decode(SourceConfig, plain)
    except draccus.utils.DecodingError as error:
        fix = "See `lary suite source=calvin --help` for all settings."
        raise named_cause(error, SourceConfig, fix) from error
    chosen = [parse_head_config(head)] if head is not None else [_head(h) for h in heads]
    return replace(config, heads=tuple(chosen), options=options)


def _head(value: str | Mapping[str, Any]) -> HeadConfig:
    return load_head_config(value) if isinstance(value, str) else parse_head_config(value)
