"""Stage `data`: demonstrations of a task, and those that the closed loop follows in mode `subgoal`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lary_policy.console import progress
from lary_policy.data import PairTable
from lary_policy.data.larybench import load_pairs
from lary_policy.data.simulated import (
    FIRST_SEED,
    SPLITS,
    DemonstrationReport,
    collect_demonstrations,
    seeds_of,
)
from lary_policy.machine import intra_op_threads
from lary_policy.stages.cells import Cell
from lary_policy.stages.context import RunContext
from lary_policy.types import Quarantined

__all__ = ["FIRST_SEED", "SPLITS", "TaskData", "collect_task", "data_cells", "run_data", "seeds_of"]


@dataclass(frozen=True)
class TaskData:
    """Where the demonstrations of one task lie.

    Attributes:
        task: Task name.
        root: Dataset with the splits train, val and test.
        goals_root: Dataset with the split rollout: one demonstration for each evaluated seed.
        seconds: Time both took to collect.
        failed: Expert episodes that were left out.
    """

    task: str
    root: Path
    goals_root: Path
    seconds: float
    failed: tuple[Quarantined, ...]

    def pairs(self, context: RunContext, split: str) -> PairTable:
        """Read the pairs of a split."""
        root = self.goals_root if split == "rollout" else self.root
        return load_pairs(
            root,
            self.task,
            split,
            embodiment=context.embodiment_of(self.task),
            stride=context.config.stride,
            cameras=context.config.cameras,
        )


def data_cells(context: RunContext, task: str) -> tuple[Cell, Cell]:
    """Return the cells of the demonstrations and of the goals of a task."""
    c = context.config
    shared = (task, c.cameras, c.image_px, c.stride, context.embodiment_of(task).name, c.looks)
    demos = context.cell("data", task, *shared, c.randomisation, c.demos)
    return demos, context.cell("data", f"{task}-goals", *shared, c.rollout_level, c.episodes)


def run_data(context: RunContext, task: str) -> TaskData:
    """Collect the demonstrations of a task, or reuse the complete ones on disk.

    Raises:
        StoreError: The disk is full; finished episodes are kept and the next call continues.
        DatasetError: The expert failed on a whole split.
    """
    demos, goals = data_cells(context, task)
    c = context.config
    first = _collect_demos(context, demos, task)
    episodes = {"rollout": seeds_of("rollout", c.episodes)}
    second = _collect(context, goals, task, episodes, {"randomisation": c.rollout_level})
    failed = (*first.failed, *second.failed)
    return TaskData(task, first.root, second.root, first.seconds + second.seconds, failed)


def collect_task(context: RunContext, task: str) -> Path:
    """Collect the demonstrations of a task without the goals of the closed loop; return their folder.

    Raises:
        StoreError: The disk is full; finished episodes are kept and the next call continues.
        DatasetError: The expert failed on a whole split.
    """
    demos, _ = data_cells(context, task)
    return _collect_demos(context, demos, task).root


def _collect_demos(context: RunContext, cell: Cell, task: str) -> DemonstrationReport:
    counts = asdict(context.config.demos)
    disturbed = {key: counts[key] for key in ("noise_std_m", "noise_std_rad")}
    splits = {split: seeds_of(split, counts[split]) for split in SPLITS}
    level = {"randomisation": context.config.randomisation}
    return _collect(context, cell, task, splits, {**disturbed, **level})


def _collect(
    context: RunContext, cell: Cell, task: str, splits: dict[str, list[int]], disturbed: dict[str, Any]
) -> DemonstrationReport:
    c = context.config
    kwargs: dict[str, Any] = {
        "splits": splits,
        "cameras": c.cameras,
        "image_px": c.image_px,
        "stride": c.stride,
        "num_worlds": c.num_worlds,
        "render_device": context.device,
        "looks": c.looks,
        **disturbed,
    }
    if cell.folder.exists():
        return collect_demonstrations(cell.folder, task, **kwargs)
    with progress(f"data {cell.label}") as update, intra_op_threads(1):
        return collect_demonstrations(cell.folder, task, on_progress=update, **kwargs)
