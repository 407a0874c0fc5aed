"""The schema of a run, whatever it reads: a source, encoder views, questions, heads, seeds, closed loops."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lary_policy.actions import ROTATIONS, UNKNOWN_ROBOTS, action_target, list_action_targets
from lary_policy.data import PROTOCOLS
from lary_policy.encoders import EncoderView
from lary_policy.errors import ConfigError, LaryPolicyError, UnknownNameError
from lary_policy.heads import HeadConfig, head_kind, load_head_config, parse_head_config, require_fit
from lary_policy.heads.training import list_loggers
from lary_policy.paths import plain_name
from lary_policy.runs.questions import NO_HEAD, WINDOWS, Probe, ProbeConfig, find_question, list_questions
from lary_policy.settings import at_least, check_names, setting, some_and_different

SIMULATED = "simulated"  # the source that `tasks` are of
LOOPS = {"subgoal": "pair", "policy": "policy"}  # mode of the closed loop -> question of the head it uses
LOOKS = ("primitives", "menagerie")  # of the simulated robots
ENGINES = ("local", "ray")  # of extraction
LEVELS = ("none", "train", "shifted")  # of randomisation, see envs/README.md
LATENTS_DTYPES = ("auto", "float32", "float16", "bfloat16")
MOST_EPISODES = 200  # of episodes=auto: rates .1 apart are told apart four times of five
MOST_SEEDS = 100_000  # of a split: its seeds start so far behind those of the one before it, see `FIRST_SEED`
RESERVED_RUNS = ("cache", "latest", "sweeps")  # names that the output folder uses itself
PROTOCOL_CHOICES = {"native": ("native",), "lary": ("lary",), "both": PROTOCOLS}
# What a run on files trains where nothing is asked for. The reference's tables hold absolute targets and
# flattened latents; native results put relative targets and a head of one capacity for every encoder beside.
# The reference's heads take 20 epochs in batches of 256: of fewer than SMALL_ROWS training rows that is less
# than 400 steps of up to 1.2e9 weights, hours on a CPU and not yet fitted. Native results of so few rows are
# those of the small heads, which simulated tasks of 250 demonstrations (2,000 rows) have, too.
SMALL_ROWS = 20 * 256
DEFAULT_TARGETS = {"lary": ("absolute",), "native": ("absolute", "relative")}
DEFAULT_HEADS = {
    ("lary", "actions"): ("mlp-reference",),
    ("native", "actions"): ("mlp-reference", "mlp-matched"),
    ("lary", "classes"): ("attentive-sweep",),
    ("native", "classes"): ("attentive-sweep",),
}
SMALL_HEADS = {"actions": ("mlp-small",), "classes": ("attentive-small",)}


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(expected=f"{name} >= 1", got=str(value), fix=f"Pass {name}=50, for example.")


@dataclass(frozen=True)
class DemoConfig:
    """Episodes of each split, and noise injected into the executed targets (DART) in metres and radians."""

    train: int = 250
    val: int = 25
    test: int = 50
    noise_std_m: float = 0.0
    noise_std_rad: float = 0.0

    def __post_init__(self) -> None:
        for name in ("train", "val", "test"):
            _positive(f"demos.{name}", getattr(self, name))
        for name in ("noise_std_m", "noise_std_rad"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(
                    expected=f"demos.{name} >= 0", got=str(getattr(self, name)), fix=f"Pass demos.{name}=0."
                )


@dataclass(frozen=True)
class RolloutConfig:
    """One way to close the loop with the head of a probe."""

    mode: str
    target: str

    def __post_init__(self) -> None:
        if self.mode not in LOOPS:
            raise UnknownNameError("rollout mode", self.mode, LOOPS)

    def uses(self, probe: Probe | ProbeConfig) -> bool:
        """Tell whether the loop runs the head of this probe."""
        return (LOOPS[self.mode], self.target) == (probe.mode, probe.target)


# What tasks are asked, and how their heads are let drive, where a suite says nothing else.
DEFAULT_PROBES = (
    ProbeConfig("pair", "absolute", "mlp-small"),
    ProbeConfig("pair", "relative", "mlp-small"),
    ProbeConfig("policy", "relative", "mlp-small", proprio=True),
    ProbeConfig("atomic", "class", "attentive-small"),
)
DEFAULT_ROLLOUTS = (RolloutConfig("subgoal", "absolute"), RolloutConfig("policy", "relative"))


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run depends on; a file of configs/suite says what differs from these defaults."""

    name: str = setting("run", "name of the suite, for the report")
    encoders: tuple[EncoderView, ...] = setting((), "views: [dinov2-small,{name: pixels, image_px: 56}]")
    source: str = setting(SIMULATED, "what is read: `simulated` tasks, or files of this kind")
    sources: tuple[str, ...] = setting((), "several sources of files in one run and report; empty = source")
    data_dir: Path | None = setting(None, "folder of the source's files")
    options: dict[str, Any] = setting(dict, "further settings of the source")
    tasks: tuple[str, ...] = setting((), "simulated tasks; empty for a source of files")
    cameras: tuple[str, ...] | None = setting(
        None, "of the tasks, in the order that heads see them; null = each task's own: front and hands"
    )
    image_px: int = setting(112, "width and height of the tasks' frames")
    stride: int = setting(5, "control steps between source and target frame = chunk length of tasks")
    demos: DemoConfig = setting(DemoConfig(), "demonstrations of each split, and noise injected into them")
    looks: str = setting(
        "primitives", "of simulated robots; menagerie = MuJoCo Menagerie's meshes (arm7), same physics", LOOKS
    )
    randomisation: str = setting("none", "of demonstrations: colours, sizes, light, cameras, table", LEVELS)
    protocol: str = setting(
        "native", "lary = as the reference does it, faults included (files only)", tuple(PROTOCOL_CHOICES)
    )
    probes: tuple[ProbeConfig, ...] | None = setting(
        None, "questions: [{mode: pair, target: absolute, head: mlp-small}]; null = the usual ones"
    )
    heads: tuple[HeadConfig, ...] = setting(
        (), "names of configs/head, instead of those of the probes; of files by default the reference's and "
        "mlp-matched, the small ones under protocol=native with fewer than 5,120 training rows"
    )  # fmt: skip
    targets: tuple[str, ...] = setting((), "instead of those of the probes", list_action_targets)
    rotation: str = setting("native", "of targets: as recorded, or six numbers", ROTATIONS)
    unknown_robots: str = setting(
        "error", "native, blank or unknown robot types: an error, or pool = all robots' statistics",
        UNKNOWN_ROBOTS[:2],
    )  # fmt: skip
    statistics: Path | None = setting(
        None, "JSON of `lary data statistics`, or the reference's; null = of the training split"
    )
    loggers: tuple[str, ...] = setting((), "where histories also go; wandb runs offline", list_loggers)
    attention: int = setting(4, "test samples of each class probe whose attention is drawn")
    seed: int = setting(0, "of heads; latents do not depend on it")
    seeds: tuple[int, ...] = setting((), "several seeds in one run and report, e.g. [0,1,2]; empty = seed")
    rollouts: tuple[RolloutConfig, ...] | None = setting(
        None, "closed loops of tasks: [{mode: subgoal, target: absolute}]; null = the usual ones"
    )
    episodes: int = setting(50, "closed-loop episodes of one cell")
    stop_when_decided: bool = setting(
        False, "add episodes only until success differs from the first encoder's, `episodes` at most; "
        "episodes=auto is this with 200"
    )  # fmt: skip
    num_worlds: int = setting(50, "simulated worlds side by side")
    workers: int = setting(
        1,
        "processes that share the closed-loop episodes of each cell; device=cuda: each has a GPU of its own",
    )
    rollout_randomisation: str | None = setting(None, "of closed loops; null = as demonstrations", LEVELS)
    stop_at_success: bool = setting(False, "end an episode at its first success")
    films: bool = setting(True, "film six episodes of each closed loop; one that ran unfilmed stays so")
    max_episode_steps: int | None = setting(
        None,
        "end episodes after so many control steps; null = after those of the task, which are never exceeded",
    )
    batch_invariant: bool = setting(False, "one world after the other: num_worlds changes no bit")
    latents_dtype: str = setting(
        "auto", "of the store; auto = float32 under lary, otherwise 16 bits", LATENTS_DTYPES
    )
    latents_ram_gb: float | None = setting(
        None, "latents a training keeps in memory, 1e9 bytes; null = a quarter of what is free"
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:<index>: encoders, heads, renderer, rollouts")
    engine: str = setting("local", "of extraction: these processes, or a Ray cluster (extra `ray`)", ENGINES)
    ray_address: str = setting(
        "local", "local = this machine alone, auto = the cluster it is part of, host:port"
    )
    ray_encoders: int | None = setting(None, "encoders of engine=ray; null = one a GPU, or a core")
    ray_decoders: int | None = setting(
        None,
        "frames' decoders of engine=ray at once; null = one a core that encoders leave, or share on a CPU",
    )
    store: str | None = setting(
        None, "where latents lie: a folder, or a URL as s3://bucket/latents, that machines share; null = the "
        "cache of output_dir"
    )  # fmt: skip
    output_dir: Path = setting(Path("outputs"), "where results and the cache go")
    run: str | None = setting(None, "name of the run's folder in it; null = <verb>-<date>-<time>")

    def __post_init__(self) -> None:
        check_names(self)
        at_least(self, 1, "episodes", "num_worlds", "workers", "stride", "image_px", "max_episode_steps")
        at_least(self, 1, "ray_encoders", "ray_decoders")
        at_least(self, 0, "attention", "latents_ram_gb")
        some_and_different("encoders", [view.label for view in self.encoders])
        for name, values in ((one.name, getattr(self, one.name)) for one in fields(self)):
            if isinstance(values, tuple) and len(dict.fromkeys(values)) < len(values):
                some_and_different(name, [str(value) for value in values])
        if self.cameras is not None:
            some_and_different("cameras", self.cameras)
        self._check_run()
        self._check_loops()

    def _check_run(self) -> None:
        counts = {name: getattr(self, name) for name in ("episodes", "num_worlds")}
        counts |= {f"demos.{name}": getattr(self.demos, name) for name in ("train", "val", "test")}
        for name, count in counts.items():
            if count > MOST_SEEDS:
                raise ConfigError(
                    expected=f"{name} of at most {MOST_SEEDS:,}: splits have so many seeds of their own",
                    got=str(count),
                    fix=f"Pass {name}={MOST_SEEDS}, or fewer.",
                )
        for seed in self.every_seed:
            if not 0 <= seed < 1 << 63:
                raise ConfigError(
                    expected="seeds from 0 to 2^63 - 1", got=str(seed), fix="Pass seed=0, for example."
                )
        if self.run is not None and plain_name("run", self.run, ConfigError) in RESERVED_RUNS:
            raise ConfigError(
                expected=f"run as the plain name of a folder, other than {', '.join(RESERVED_RUNS)}",
                got=f"'{self.run}'",
                fix="Pass run=first-try, for example, and output_dir=<folder> for another place.",
            )

    def _check_loops(self) -> None:
        if self.tasks and self.protocol != "native":
            raise ConfigError(
                expected="protocol=native for simulated tasks", got=self.protocol, fix="Leave protocol out."
            )
        if self.dense and not self.tasks:
            raise ConfigError(
                expected="windows=dense for simulated tasks, which record every control step",
                got=f"source={self.source}",
                fix="Leave windows out, or train a policy on every step with `lary train`.",
            )
        for loop in self.rollouts or ():
            if not any(loop.uses(probe) for probe in self.asked):
                raise ConfigError(
                    expected=f"a probe {LOOPS[loop.mode]}/{loop.target} for rollouts",
                    got=f"probes {', '.join(f'{p.mode}/{p.target}' for p in self.asked) or 'none'}",
                    fix="Add the probe to `probes` or drop the rollout.",
                )

    @property
    def keys(self) -> tuple[str, ...]:
        """The sources of files to read, one after the other; none where the run has tasks."""
        return () if self.tasks else self.sources or (self.source,)

    def episode_steps(self, own: int) -> int:
        """Return after how many control steps episodes end in a world that ends them after `own`."""
        return own if self.max_episode_steps is None else min(own, self.max_episode_steps)

    @property
    def every_seed(self) -> tuple[int, ...]:
        """The seeds of each head."""
        return self.seeds or (self.seed,)

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols to run, one after the other."""
        return PROTOCOL_CHOICES[self.protocol]

    @property
    def rollout_level(self) -> str:
        """Level of randomisation of the closed loop and of the demonstrations it follows."""
        return self.rollout_randomisation or self.randomisation

    @property
    def asked(self) -> tuple[ProbeConfig, ...]:
        """The questions as they are asked; empty for a source of files, which has its own."""
        if self.probes is not None:
            return self.probes
        return DEFAULT_PROBES if self.tasks else ()

    @property
    def dense(self) -> bool:
        """Whether a head learns from every control step."""
        return any(probe.windows != WINDOWS[0] for probe in self.asked)

    @property
    def loops(self) -> tuple[RolloutConfig, ...]:
        """The closed loops: those asked for, or the usual ones whose head is trained."""
        if self.rollouts is not None:
            return self.rollouts
        usual = DEFAULT_ROLLOUTS if self.tasks else ()
        return tuple(loop for loop in usual if any(loop.uses(probe) for probe in self.asked))

    def probes_for(
        self, protocol: str, about: tuple[str, ...], kind: str, rows: int | None = None
    ) -> tuple[Probe, ...]:
        """Return the heads to train on data.

        Args:
            protocol: `native` or `lary`.
            about: What the data can be asked: `actions`, `classes` or both.
            kind: `pairs` or `clips`.
            rows: Training rows: of fewer than `SMALL_ROWS` the usual heads are others. None for many.

        Raises:
            ConfigError: A question does not fit the data, or a head not its question.
        """
        asked = self.asked or _usual(protocol, about, kind, small=self.is_small(protocol, rows))
        found = [probe for one in asked for probe in self._with_heads(one, protocol)]
        for probe in found:
            if not find_question(probe.mode).fits(about, kind):
                modes = [name for name, one in list_questions().items() if one.fits(about, kind)]
                raise ConfigError(
                    expected=f"a question that {self.source} can be asked: {', '.join(modes)}",
                    got=f"{probe.mode}/{probe.target}",
                    fix=f"Pass probes=[{{mode: {modes[0]}, ...}}], or leave probes out.",
                )
        return tuple(dict.fromkeys(found))

    def is_small(self, protocol: str, rows: int | None) -> bool:
        """Tell whether files of so many training rows are probed by the small heads: none are asked for."""
        native = protocol == "native" and not self.asked and not self.heads
        return native and rows is not None and rows < SMALL_ROWS

    def _with_heads(self, one: ProbeConfig, protocol: str) -> list[Probe]:
        asked = find_question(one.mode)
        if asked.asks is None:
            return [Probe(one.mode, one.target, NO_HEAD)]
        about = asked.about
        heads = [h for h in self.heads if head_kind(h.model.kind).fits(asked.asks)]
        if self.heads and not heads and not self.asked:
            heads = list(self.heads)  # files are asked what the heads are for: these are refused below
        heads = heads or [load_head_config(one.head)]
        for head in heads:
            require_fit(head.model, asked.asks)
        if protocol == "native":
            # The reference reports the last epoch; a native result is that of the epoch that val chose.
            heads = [replace(h, train=replace(h.train, select="best")) for h in heads]
        targets = self.targets if about == "actions" and self.targets else (one.target,)
        if about == "actions":  # what the reference calls relative is `displacement`
            targets = tuple(dict.fromkeys(action_target(t, protocol=protocol).name for t in targets))
        return [Probe(one.mode, t, h, one.proprio, one.windows) for h, t in itertools.product(heads, targets)]


def _usual(protocol: str, about: tuple[str, ...], kind: str, *, small: bool) -> list[ProbeConfig]:
    """Return what is asked of files where a run says nothing."""
    names = SMALL_HEADS[about[0]] if small else DEFAULT_HEADS[protocol, about[0]]
    if about[0] == "classes":
        mode = "composite" if kind == "clips" else "atomic"
        return [ProbeConfig(mode, "class", name) for name in names]
    return [ProbeConfig("pair", t, name) for name in names for t in DEFAULT_TARGETS[protocol]]


def run_config(raw: Mapping[str, Any]) -> RunConfig:
    """Turn plain settings, as the command line composes them, into a `RunConfig`.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type.
        UnknownNameError: A task, encoder, mode, target, head, protocol or looks do not exist.
    """
    import draccus

    values = {name: value for name, value in raw.items() if value is not None}
    for one in fields(RunConfig):
        if str(one.type).startswith("tuple") and isinstance(values.get(one.name), str):
            got = values[one.name]
            raise ConfigError(
                expected=f"a list of {one.name}", got=f"'{got}'", fix=f"Write {one.name}=[{got}]."
            )
    if values.get("episodes") == "auto":
        values |= {"episodes": MOST_EPISODES, "stop_when_decided": True}
    views = tuple(EncoderView.of(view) for view in values.pop("encoders", ()))
    heads = tuple(_head(head) for head in values.pop("heads", ()))
    options = values.pop("options", {})
    try:
        # Everything that draccus decodes is there before views and heads are: a run needs at least one view.
        config = draccus.decode(RunConfig, {**values, "encoders": [{"name": "-"}]})
    except draccus.utils.DecodingError as error:
        raise named_cause(error, RunConfig) from error
    return replace(config, encoders=views, heads=heads, options=dict(options))


def _head(value: str | Mapping[str, Any]) -> HeadConfig:
    return load_head_config(value) if isinstance(value, str) else parse_head_config(value)


def named_cause(error: Exception, schema: type) -> LaryPolicyError:
    """Return the named error below a decoding error, or one that lists the fields of the schema."""
    below: BaseException | None = error
    while below is not None and not isinstance(below, LaryPolicyError):
        below = below.__cause__ or below.__context__
    where = ".".join(getattr(error, "key_path", ()))
    return below or ConfigError(
        expected=f"a value that fits {where}"
        if where
        else "fields " + ", ".join(f.name for f in fields(schema)),
        got=str(error),
        fix="`lary <verb> --help` lists every setting with its type.",
    )
