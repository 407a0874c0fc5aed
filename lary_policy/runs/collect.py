"""Stage `data`: demonstrations of simulated tasks, and those that the closed loop follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lary_policy.console import kept, progress
from lary_policy.data import open_source
from lary_policy.data.simulated import collect_dense, collect_goals, collect_splits, report_on
from lary_policy.errors import ConfigError
from lary_policy.machine import intra_op_threads
from lary_policy.paths import read_json
from lary_policy.runs.cells import Cell, plain
from lary_policy.runs.config import SIMULATED, WINDOWS, RunConfig
from lary_policy.runs.context import RunContext, RunData


def data_cells(context: RunContext, task: str) -> tuple[Cell, Cell | None]:
    """Return the cells of the demonstrations of a task and, if a loop follows any, of the goals."""
    from lary_envs.tasks import task_spec

    c, spec = context.config, task_spec(task)
    drawn = (spec.drawing,) if spec.drawing else ()
    shared = (task, context.cameras(task), c.image_px, c.stride, spec.embodiment, c.looks, *drawn)
    demos = context.cell("data", task, *shared, c.randomisation, c.demos)
    if not c.loops:
        return demos, None
    return demos, context.cell("data", f"{task}-goals", *shared, c.rollout_level, c.episodes)


def dense_cell(context: RunContext, task: str) -> Cell | None:
    """Return the cell of a task's training demonstrations with a chunk from every step, if asked for."""
    c, (demos, _) = context.config, data_cells(context, task)
    return context.cell("data", f"{task}-dense", demos.key, WINDOWS[1]) if c.dense else None


def collected(context: RunContext, task: str) -> bool:
    """Tell whether the demonstrations of a task are on disk."""
    return data_cells(context, task)[0].folder.exists()


def open_task(context: RunContext, task: str) -> RunData:
    """Open what has been collected of a task: demonstrations and, if they are there, goals."""
    demos, goals = data_cells(context, task)
    there, dense = (
        cell.folder if cell is not None and cell.folder.exists() else None
        for cell in (goals, dense_cell(context, task))
    )
    source = open_source(SIMULATED, data_dir=demos.folder, goals=there, dense=dense)
    reports = [_report(folder) for folder in (demos.folder, there, dense) if folder is not None]
    return RunData(
        source,
        "native",
        task,
        seconds=sum(report.seconds for report in reports),
        failed=tuple(episode for report in reports for episode in report.failed),
    )


def recorded(context: RunContext, task: str) -> Iterator[str]:
    """Yield for each dataset of a task on disk what it is for, how many episodes it has and where it lies."""
    demos, goals = data_cells(context, task)
    modes = " and ".join(dict.fromkeys(loop.mode for loop in context.config.loops))
    uses = (
        (demos, "demonstrations, for probes"),
        (goals, f"goals: how closed loops ({modes}) start, and what they follow; rollouts=[] records none"),
        (dense_cell(context, task), "training demonstrations with a chunk from every control step"),
    )
    for cell, use in uses:
        if cell is not None and cell.folder.exists():
            found = _report(cell.folder)
            count = ", ".join(f"{count} {split}" for split, count in found.episodes.items())
            left = [f"{one.item}: {one.reason}" for one in found.failed[:2]]
            lost = f"; {len(found.failed)} left out, e.g. {', '.join(left)}" if left else ""
            yield f"{use}: {count} episodes{lost}\n    {cell.folder}"


def run_collect(context: RunContext, task: str) -> RunData:
    """Collect the demonstrations of a task and the goals of its loops, or reuse the complete ones on disk.

    Raises:
        StoreError: The disk is full; finished episodes are kept and the next call continues.
        DatasetError: The expert failed on a whole split.
    """
    c = context.config
    _, goals = data_cells(context, task)
    collect_demos(context, task)
    if (dense := dense_cell(context, task)) is not None:
        settings = _settings(context, task, randomisation=c.randomisation)
        _collect(dense, collect_dense, task, plain(c.demos), settings)
    if goals is not None:
        if goals.folder.exists():
            kept(f"data {goals.label}")
        settings = _settings(context, task, randomisation=c.rollout_level)
        _collect(goals, collect_goals, task, c.episodes, settings)
    return open_task(context, task)


def collect_demos(context: RunContext, task: str) -> Path:
    """Collect the demonstrations of a task without goals and return their folder.

    Raises:
        StoreError: The disk is full; finished episodes are kept and the next call continues.
        DatasetError: The expert failed on a whole split.
    """
    c, (cell, _) = context.config, data_cells(context, task)
    settings = _settings(context, task, randomisation=c.randomisation)
    return _collect(cell, collect_splits, task, plain(c.demos), settings)


def require_single(config: RunConfig, of: str, settings: Sequence[str] = ("env",)) -> None:
    """Refuse several tasks, or encoders, where something is made of one.

    Args:
        config: Of the run.
        of: What is made, e.g. `a policy`.
        settings: Which are to be one: `env`, `encoder`.

    Raises:
        ConfigError: There are several.
    """
    names = {"env": list(config.tasks), "encoder": [view.name for view in config.encoders]}
    for setting in settings:
        if len(names[setting]) > 1:
            raise ConfigError(
                expected=f"one {'task' if setting == 'env' else setting} for {of}",
                got=", ".join(names[setting]),
                fix=f"Pass {setting}={names[setting][0]}, and run the command again for each other one.",
            )


def _settings(context: RunContext, task: str, **how: Any) -> dict[str, Any]:
    c = context.config
    return {
        "cameras": context.cameras(task),
        "image_px": c.image_px,
        "stride": c.stride,
        "num_worlds": c.num_worlds,
        "render_device": context.device,
        "looks": c.looks,
        **how,
    }


def _collect(cell: Cell, collect: Any, task: str, what: Any, settings: dict[str, Any]) -> Path:
    if cell.folder.exists():
        return collect(cell.folder, task, what, **settings)
    with progress(f"data {cell.label}") as update, intra_op_threads(1):
        return collect(cell.folder, task, what, on_progress=update, **settings)


def _report(folder: Path) -> Any:
    return report_on(folder, read_json(folder / "dataset.json"), reused=True)
