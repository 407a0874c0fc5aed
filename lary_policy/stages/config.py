"""The schema of a run: plain dataclasses, filled from the Hydra groups at the command line's edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from lary_policy.errors import ConfigError, LaryPolicyError, UnknownNameError
from lary_policy.paths import NAMED_ENCODER, choices, configs_dir

PROBE_MODES = ("pair", "policy", "atomic")
TARGETS = {"pair": ("absolute", "relative"), "policy": ("absolute", "relative"), "atomic": ("class",)}
ROLLOUT_MODES = {
    "subgoal": "pair",
    "policy": "policy",
}  # mode of the loop -> mode of the probe whose head it uses
PROTOCOLS = ("native",)
LOOKS = ("primitives", "menagerie")  # of the simulated robots
LEVELS = ("none", "train", "shifted")  # of randomisation, see envs/README.md
# How latents are stored; `auto`: float32 under protocol=lary, whose files hold float32, and under native
# float16 for encoders that compute in float32 and the encoder's own format for others.
LATENTS_DTYPES = ("auto", "float32", "float16", "bfloat16")
LISTS = ("tasks", "encoders", "cameras", "probes", "rollouts")
RESERVED_RUNS = ("cache", "latest")  # names that the output folder uses itself


@dataclass(frozen=True)
class EncoderChoice:
    """Which encoder, and how its frames and weights are treated (one file of configs/encoder).

    `image_px` null means the size of the suite's frames, so that nothing is scaled up; latent action models,
    whose tokens do not follow the input's size, keep the size that they were trained at. `output` is one of
    the encoder's outputs; `auto` is its first one or, under preprocess=lary, what the reference extracts.
    """

    name: str
    weights: str = "auto"
    preprocess: str = "native"
    dtype: str = "float32"
    image_px: int | None = None
    output: str = "auto"


@dataclass(frozen=True)
class DemoConfig:
    """Episodes of each split, and noise injected into the executed targets (DART) in metres and radians."""

    train: int
    val: int
    test: int
    noise_std_m: float = 0.0
    noise_std_rad: float = 0.0

    def __post_init__(self) -> None:
        for name in ("train", "val", "test"):
            _at_least_one(f"demos.{name}", getattr(self, name))
        for name in ("noise_std_m", "noise_std_rad"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(
                    expected=f"demos.{name} >= 0", got=str(getattr(self, name)), fix=f"Pass demos.{name}=0."
                )


@dataclass(frozen=True)
class ProbeConfig:
    """One head to train: `pair` (source and target frame), `policy` (source frame) or `atomic` (classes)."""

    mode: str
    target: str
    head: str
    proprio: bool = False

    def __post_init__(self) -> None:
        if self.mode not in PROBE_MODES:
            raise UnknownNameError("probe mode", self.mode, PROBE_MODES)
        if self.target not in TARGETS[self.mode]:
            raise UnknownNameError(f"target of a {self.mode} probe", self.target, TARGETS[self.mode])


@dataclass(frozen=True)
class RolloutConfig:
    """One way to close the loop with the head of a probe."""

    mode: str
    target: str

    def __post_init__(self) -> None:
        if self.mode not in ROLLOUT_MODES:
            raise UnknownNameError("rollout mode", self.mode, ROLLOUT_MODES)


@dataclass(frozen=True)
class SuiteConfig:
    """Everything a run depends on. See configs/_run.yaml and configs/suite/ for the meaning of each field."""

    name: str
    tasks: tuple[str, ...]
    encoders: tuple[EncoderChoice, ...]
    cameras: tuple[str, ...]
    image_px: int
    demos: DemoConfig
    probes: tuple[ProbeConfig, ...]
    rollouts: tuple[RolloutConfig, ...]
    stride: int = 5
    seed: int = 0
    protocol: str = "native"
    episodes: int = 50
    num_worlds: int = 50
    stop_at_success: bool = False
    latents_dtype: str = "auto"
    latents_ram_gb: float | None = None
    looks: str = "primitives"
    randomisation: str = "none"
    rollout_randomisation: str | None = None
    device: str = "auto"
    output_dir: Path = field(default_factory=lambda: Path("outputs"))
    run: str | None = None

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise UnknownNameError("protocol", self.protocol, PROTOCOLS)
        if self.looks not in LOOKS:
            raise UnknownNameError("looks", self.looks, LOOKS)
        for level in (self.randomisation, self.rollout_level):
            if level not in LEVELS:
                raise UnknownNameError("level of randomisation", level, LEVELS)
        check_latents(self.latents_dtype, self.latents_ram_gb)
        for name in ("episodes", "num_worlds", "stride"):
            _at_least_one(name, getattr(self, name))
        _some_and_different("tasks", self.tasks)
        _some_and_different("encoders", [e.name for e in self.encoders])
        _some_and_different("cameras", self.cameras)
        for name, parts in (("probes", self.probes), ("rollouts", self.rollouts)):
            if parts:
                _some_and_different(name, [f"{part.mode}/{part.target}" for part in parts])
        if self.run is not None and (
            self.run != Path(self.run).name or self.run in ("", "..", *RESERVED_RUNS)
        ):
            raise ConfigError(
                expected=f"run as the plain name of a folder, other than {', '.join(RESERVED_RUNS)}",
                got=f"'{self.run}'",
                fix="Pass run=first-try, for example, and output_dir=<folder> for another place.",
            )
        trained = {(p.mode, p.target) for p in self.probes}
        for rollout in self.rollouts:
            if (ROLLOUT_MODES[rollout.mode], rollout.target) not in trained:
                raise ConfigError(
                    expected=f"a probe {ROLLOUT_MODES[rollout.mode]}/{rollout.target} for rollouts",
                    got=f"probes {sorted(trained)}",
                    fix="Add the probe to `probes` or drop the rollout.",
                )

    @property
    def rollout_level(self) -> str:
        """Level of randomisation of the closed loop and of the demonstrations it follows."""
        return self.rollout_randomisation or self.randomisation

    def probe_for(self, rollout: RolloutConfig) -> ProbeConfig:
        """Return the probe whose head a rollout uses."""
        wanted = (ROLLOUT_MODES[rollout.mode], rollout.target)
        return next(p for p in self.probes if (p.mode, p.target) == wanted)


def check_latents(dtype: str, ram_gb: float | None) -> None:
    """Check how latents are stored and how much memory they may take.

    Raises:
        UnknownNameError: The dtype is none of `LATENTS_DTYPES`.
        ConfigError: The memory is negative.
    """
    if dtype not in LATENTS_DTYPES:
        raise UnknownNameError("latents_dtype", dtype, LATENTS_DTYPES)
    if ram_gb is not None and not ram_gb >= 0:
        raise ConfigError(
            expected="latents_ram_gb >= 0, or null for a quarter of the free memory",
            got=str(ram_gb),
            fix="Pass latents_ram_gb=4, for example; with 0 all latents stay on disk.",
        )


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(expected=f"{name} >= 1", got=str(value), fix=f"Pass {name}=50, for example.")


def _some_and_different(name: str, values: Sequence[str]) -> None:
    if not values or len(set(values)) < len(values):
        raise ConfigError(
            expected=f"at least one of {name}, each once",
            got=f"[{', '.join(values)}]",
            fix=f"Pass {name}=[first,second], for example.",
        )


def suite_config(raw: dict[str, Any]) -> SuiteConfig:
    """Turn a resolved Hydra config into a `SuiteConfig`.

    The group choices `env` and `encoder`, where present, narrow `tasks` and `encoders` to one.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type.
        UnknownNameError: A task, encoder, mode, target, protocol or looks do not exist.
    """
    import draccus

    raw = dict(raw)
    for name in LISTS:
        if isinstance(raw.get(name), str):
            raise ConfigError(
                expected=f"a list of {name}", got=f"'{raw[name]}'", fix=f"Write {name}=[{raw[name]}]."
            )
    env, encoder = raw.pop("env", None), raw.pop("encoder", None)
    if env is not None:
        raw["tasks"] = [env["name"]]
    names = [encoder] if encoder is not None else raw.get("encoders", [])
    raw["encoders"] = [name if isinstance(name, dict) else encoder_settings(name) for name in names]
    try:
        return draccus.decode(SuiteConfig, raw)
    except draccus.utils.DecodingError as error:
        fix = "See configs/suite/quick.yaml for a complete example."
        raise named_cause(error, SuiteConfig, fix) from error


def named_cause(error: Exception, schema: type, fix: str) -> LaryPolicyError:
    """Return the named error below a decoding error, or one that lists the fields of the schema."""
    below: BaseException | None = error
    while below is not None and not isinstance(below, LaryPolicyError):
        below = below.__cause__ or below.__context__
    return below or ConfigError(
        expected="fields " + ", ".join(f.name for f in fields(schema)),
        got=str(error),
        fix=fix,
    )


def encoder_settings(name: str) -> dict[str, Any]:
    """Read the settings of an encoder: its own file, or the common one for a name with a colon.

    Raises:
        UnknownNameError: The name has no colon and no file.
    """
    if ":" not in name:
        return read_group("encoder", name)
    template = (configs_dir() / "encoder" / f"{NAMED_ENCODER}.yaml").read_text()
    return {**yaml.safe_load(template), "name": name}


def read_group(group: str, name: str) -> dict[str, Any]:
    """Read one file of a config group.

    Raises:
        UnknownNameError: The group has no such file.
    """
    if name not in choices(group):
        raise UnknownNameError(group, name, choices(group))
    return yaml.safe_load((configs_dir() / group / f"{name}.yaml").read_text())
