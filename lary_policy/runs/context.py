"""What all stages of one run share: configuration, folders, device, opened data, loaded encoders."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lary_policy import __version__
from lary_policy.actions import Embodiment, load_embodiment
from lary_policy.data import (
    ClipTable,
    PairTable,
    Source,
    SourceSpec,
    content_digest,
    open_source,
    require_protocol,
    table_digest,
)
from lary_policy.data.simulated import DENSE, GOALS
from lary_policy.encoders import EncoderShelf, EncoderView
from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.latents import Place, store_dtype
from lary_policy.machine import available_cores, require_extra, require_one_process, resolve_device
from lary_policy.paths import safe_name
from lary_policy.report import Origin
from lary_policy.runs.cells import (
    RUN_FILE,
    Cell,
    Start,
    digest,
    every_start,
    plain,
    starts_of,
    write_result,
)
from lary_policy.runs.config import RunConfig
from lary_policy.runs.questions import Probe, find_question
from lary_policy.types import Quarantined

# Raised when a stage computes something else from the same inputs, so that old cells are not reused.
STAGE_VERSIONS = {"data": 4, "extract": 5, "probe": 10, "rollout": 6}
STAGES = ("data", "extract", "probe", "rollout", "report")
ABOUT_TASKS = ("actions", "classes", "scene", "looks")  # what probes of tasks can be about
PACKAGES = (
    "torch",
    "transformers",
    "timm",
    "lerobot",
    "mujoco",
    "mujoco-warp",
    "warp-lang",
    "metaworld",
    "numpy",
)


@dataclass
class RunData:
    """A source opened under one protocol, its tables read once.

    Attributes:
        source: The source.
        protocol: `native` or `lary`.
        task: The simulated task whose demonstrations it holds, or None.
        seconds: Time that collecting took.
        failed: Expert episodes that were left out.
    """

    source: Source
    protocol: str
    task: str | None = None
    seconds: float = 0.0
    failed: tuple[Quarantined, ...] = ()
    _tables: dict[str, PairTable | ClipTable] = field(default_factory=dict)

    @property
    def spec(self) -> SourceSpec:
        """What the source holds."""
        return self.source.spec

    @property
    def name(self) -> str:
        """What scores call it: the task, or the key of the source."""
        return self.task or self.spec.key

    @property
    def label(self) -> str:
        """Readable name, e.g. `reach` or `calvin-lary`."""
        return self.task or f"{self.spec.key}-{self.protocol}"

    @property
    def about(self) -> tuple[str, ...]:
        """What probes can be asked to predict: `actions`, `classes`, the `scene`, other `looks`."""
        if self.task is not None:
            return about_task(self.task)
        return ("classes",) if self.spec.embodiment is None else ("actions",)

    def probes(self, config: RunConfig) -> tuple[Probe, ...]:
        """Return the heads that a run trains on it, see `RunConfig.probes_for`; of a task, those that fit."""
        about = self.about if self.task is None else ABOUT_TASKS
        found = config.probes_for(self.protocol, about, self.spec.kind, self.rows)
        return tuple(probe for probe in found if probe.about in self.about)

    @property
    def rows(self) -> int:
        """Its training rows."""
        return len(self.table(self.spec.train_split))

    @property
    def embodiment(self) -> Embodiment | None:
        """The action layout; None for a source of classes."""
        return None if self.spec.embodiment is None else load_embodiment(self.spec.embodiment)

    @property
    def splits(self) -> tuple[str, ...]:
        """Every split that is used, each once."""
        s = self.spec
        return tuple(dict.fromkeys((s.train_split, s.select_split, *s.report_splits)))

    def table(self, split: str) -> PairTable | ClipTable:
        """Read the rows of a split, once."""
        if split not in self._tables:
            read = self.source.pairs if self.spec.kind == "pairs" else self.source.clips
            self._tables[split] = read(split)
        return self._tables[split]

    @cached_property
    def goal_table(self) -> PairTable | None:
        """Pairs of the demonstrations that the closed loop follows."""
        return self.source.pairs(GOALS) if GOALS in self.spec.splits and self.task else None

    @cached_property
    def dense_table(self) -> PairTable | None:
        """Training pairs from every control step, where they were recorded."""
        return self.source.pairs(DENSE) if DENSE in self.spec.splits else None

    @cached_property
    def dense_digest(self) -> str | None:
        """Digest of the training pairs from every control step."""
        return None if self.dense_table is None else table_digest(self.dense_table)

    @cached_property
    def digest(self) -> str:
        """Digest of what heads learn from: frames, classes and actions of all splits, wherever they lie."""
        tables = {split: self.table(split) for split in self.splits}
        return content_digest(self.source, *tables, tables=tables)

    @cached_property
    def goals_digest(self) -> str | None:
        """Digest of the demonstrations to follow."""
        return None if self.goal_table is None else table_digest(self.goal_table)


@dataclass
class RunContext:
    """One run of one or more stages.

    Attributes:
        config: What to do.
        device: Resolved torch device.
        cores: CPU cores that may be used.
        shelf: The encoders.
        data: What the run reads, as far as it is there: sources of files are opened at once, tasks by the
            stage `data`.
    """

    config: RunConfig
    device: str
    cores: int
    shelf: EncoderShelf
    data: list[RunData] = field(default_factory=list)

    @classmethod
    def create(cls, config: RunConfig, *, until: str = "report") -> RunContext:
        """Resolve the device and check every name that the stages up to `until` use.

        Raises:
            UnknownNameError: A source, task, encoder, head, camera or target does not exist.
            WeightsMissingError: The weights of an encoder are absent.
            ConfigError: CUDA is asked for and not there, or a question does not fit the data.
            DatasetError: The folder of a source is missing or holds something else.
            SimulationError: The meshes of `looks=menagerie` are missing or do not fit.
        """
        device = resolve_device(config.device)
        if config.engine == "ray":
            require_extra("ray")
            require_one_process("engine=ray")
        if config.workers > 1:
            require_one_process(f"workers={config.workers}")
        frame_px = config.image_px if config.tasks else None
        context = cls(config, device, available_cores(), EncoderShelf(device, frame_px=frame_px))
        for task in config.tasks:
            _check_task(config, task)
        context.data += [_open(config, key, p) for key in config.keys for p in config.protocols]
        if STAGES.index(until) >= STAGES.index("extract"):
            for protocol in config.protocols:
                for view in context.views(protocol):
                    context.shelf.check(view)
        if STAGES.index(until) >= STAGES.index("probe"):
            if config.tasks:
                able = {about for task in config.tasks for about in about_task(task)}
                asked = config.probes_for("native", ABOUT_TASKS, "pairs")
                if not any(probe.about in able for probe in asked):  # some alone are named, see `unasked`
                    config.probes_for("native", tuple(a for a in ABOUT_TASKS if a in able), "pairs")
                _require_answers(config, asked)
            for data in context.data:
                _require_answers(config, config.probes_for(data.protocol, data.about, data.spec.kind))
        return context

    @property
    def cache(self) -> Path:
        """Folder of finished cells, shared by all runs of an output folder."""
        return self.config.output_dir / "cache"

    @cached_property
    def latents(self) -> tuple[Path, Place | None]:
        """Folder of all stores of latents and, where that only mirrors it, the place that machines share."""
        store = self.config.store
        if store is None:
            return self.cache / "latents", None
        if "://" not in store:
            return Path(store), None
        return self.cache / "mirrors" / safe_name(store), Place(store)

    @cached_property
    def starts(self) -> list[Start]:
        """Starts of all runs of the output folder, this one's too where it has been recorded."""
        return every_start(self.config.output_dir)

    def record(self, folder: Path, *, computes: bool) -> None:
        """Write what the run is asked for, and when it starts on which commit, after its earlier starts.

        Raises:
            StoreError: The disk is full or not writable.
        """
        path, c, facts = folder / RUN_FILE, self.config, self.facts()
        # What `heads=` takes, so that the run can be set up again from the file.
        heads = [{"kind": h.model.kind, **plain(h.model), "train": plain(h.train)} for h in c.heads]
        starts = [*starts_of(path), (time.time(), facts["git"], computes)]
        asked = {**plain(c), "heads": heads}
        write_result(path, {"environment": facts, "config": asked, "starts": starts})

    def cameras(self, task: str) -> tuple[str, ...]:
        """Return the cameras of a task: those asked for, or its own."""
        from lary_envs.tasks import task_spec

        return self.config.cameras or task_spec(task).usual_cameras

    def views(self, protocol: str) -> tuple[EncoderView, ...]:
        """Return the encoder views; under `lary` those that the reference runs are fed as it feeds them."""
        if protocol != "lary":
            return self.config.encoders
        return tuple(
            replace(v, preprocess="lary") if "lary" in v.spec.preprocess else v for v in self.config.encoders
        )

    def latents_dtype(self, protocol: str, view: EncoderView) -> str:
        """Return the dtype that a view's latents are stored in."""
        return store_dtype(self.config.latents_dtype, protocol, self.shelf.dtype(view))

    def latents_key(self, data: RunData, view: EncoderView) -> str:
        """Return the digest of what heads learn from: the data's content through a view."""
        return digest(data.digest, self.shelf.key(view), self.latents_dtype(data.protocol, view), self.device)

    def cell(self, stage: str, label: str, *inputs: Any) -> Cell:
        """Return the cell of a stage for the given inputs."""
        key = digest(STAGE_VERSIONS[stage], __version__, self.device, *inputs)
        return Cell(stage, label, key, self.cache)

    def origin(self) -> Origin:
        """Return what the points of a study must share to be compared."""
        from lary_envs.tasks import task_spec

        c = self.config
        own = all(self.cameras(task) == task_spec(task).usual_cameras for task in c.tasks)
        setup = {
            "demos": plain(c.demos), "cameras": None if own else plain(c.cameras),
            "image_px": c.image_px, "stride": c.stride, "looks": c.looks, "rotation": c.rotation,
            "randomisation": c.randomisation, "rollout_randomisation": c.rollout_level,
            "stop_at_success": c.stop_at_success, "latents_dtype": c.latents_dtype,
        }  # fmt: skip
        if c.max_episode_steps is not None:
            setup["max_episode_steps"] = c.max_episode_steps
        kind = self.device.partition(":")[0]
        return Origin(dict(STAGE_VERSIONS), kind, setup, __version__, git_revision())

    def facts(self) -> dict[str, str]:
        """Return what every result of a run carries, see `machine_facts`."""
        seeds = ",".join(str(seed) for seed in self.config.every_seed)
        return machine_facts(self.device, self.cores, seeds, self.config.protocol)


def about_task(task: str) -> tuple[str, ...]:
    """Return what probes of a task can be about: worlds of some look one way only."""
    from lary_envs.tasks import task_spec

    return ABOUT_TASKS if task_spec(task).varied else ABOUT_TASKS[:-1]


def _require_answers(config: RunConfig, asked: Sequence[Probe]) -> None:
    """Raise ConfigError if none of the questions fits the latents of some encoder."""
    for view in config.encoders:
        if asked and not any(find_question(probe.mode).fits_latent(view.spec.latent) for probe in asked):
            raise ConfigError(
                expected=f"an encoder with a latent for each frame, for {asked[0].mode}",
                got=f"{view.label}, with latents of two frames",
                fix="Leave it out, or ask it {mode: pair, target: absolute, head: mlp-small} as well.",
            )


def _check_task(config: RunConfig, task: str) -> None:
    from lary_envs.tasks import task_spec

    spec = task_spec(task)
    require_extra("sim")
    if config.looks == "menagerie":
        from lary_envs.robots import list_robots
        from lary_envs.scene import require_counterpart

        if spec.embodiment not in list_robots():
            raise ConfigError(
                expected=f"looks=primitives: the worlds of {task} bring their own meshes",
                got="looks=menagerie",
                fix="Leave looks away.",
            )
        require_counterpart(spec.embodiment)
    for camera in config.cameras or ():
        if camera not in spec.cameras:
            raise UnknownNameError(f"camera of task {task}", camera, spec.cameras)


def _open(config: RunConfig, key: str, protocol: str) -> RunData:
    options = {k: v for k, v in config.options.items() if v is not None}
    options = {
        k: tuple(v) if isinstance(v, Sequence) and not isinstance(v, str) else v for k, v in options.items()
    }
    source = open_source(key, data_dir=config.data_dir, protocol=protocol, **options)
    return RunData(source, require_protocol(protocol))


def machine_facts(
    device: str, cores: int, seed: str, protocol: str, packages: Sequence[str] = ()
) -> dict[str, str]:
    """Return versions, of `packages` too, device, cores, seed and git revision, as every result has them."""
    import torch

    versions = {name: _version(name) for name in dict.fromkeys((*PACKAGES, *packages))}
    gpu = torch.cuda.get_device_name(device) if device != "cpu" else "none"
    return {
        "lary_policy": __version__,
        **versions,
        "python": platform.python_version(),
        "device": device,
        "gpu": gpu,
        "cpu cores": str(cores),
        "git": git_revision(),
        "seed": seed,
        "protocol": protocol,
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def git_revision() -> str:
    """Return the commit of the checkout the package runs from (`-dirty` if changed), or `not a checkout`."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return "not a checkout"
    return done.stdout.strip() if done.returncode == 0 else "not a checkout"
