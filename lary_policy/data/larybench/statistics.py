"""Statistics of actions from CSVs, and the reference's JSON files of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lary_policy.actions import ActionStats, RobotAccumulator, RobotStatistics, Unknown, fit_robots, floored
from lary_policy.data import layout
from lary_policy.data.arrays import read_steps
from lary_policy.data.larybench.pair_rows import PairFile, check_fields
from lary_policy.data.pairs import PairTable
from lary_policy.errors import EmbodimentError, LaryPolicyError
from lary_policy.paths import read_json, write_json
from lary_policy.types import Quarantined

NO_COLUMN = "all"  # the one robot of datasets without the column robot_type
BLANK = "nan"  # pandas' name for what is blank, and so the reference's for the robots of such rows


@dataclass(frozen=True)
class StreamedStatistics:
    """Statistics of CSVs.

    Attributes:
        statistics: Of each robot, and of all.
        rows: Rows that were used.
        quarantined: Rows whose actions could not be read.
    """

    statistics: RobotStatistics
    rows: int
    quarantined: tuple[Quarantined, ...]


def stream_statistics(
    files: Sequence[PairFile], action_dim: int, *, relative: bool = False, unknown: Unknown = "error"
) -> StreamedStatistics:
    """Compute statistics of every time step of every chunk of some CSVs, one file in memory at a time.

    Args:
        files: CSVs; each robot is pooled over all of them.
        action_dim: Numbers a of an action.
        relative: Of the difference between the last and the first step of each chunk instead.
        unknown: What becomes of blank robot types, see `RobotStatistics`.

    Raises:
        EmbodimentError: No row is usable, or `unknown` is `error` and types are blank; the rows are named.
    """
    collected, quarantined, blank, rows = RobotAccumulator(action_dim), [], [], 0
    for file in files:
        for line, cells in file.rows:
            item = f"{file.path.name}:{line}"
            try:
                check_fields(cells)
                steps = read_steps(file.resolver(cells["action"], layout.ACTIONS), action_dim)
            except LaryPolicyError as error:
                quarantined.append(Quarantined(item, str(error), "stream_statistics"))
                continue
            robot = cells.get("robot_type", NO_COLUMN).strip()
            if not robot:
                blank.append(item)
            # Targets are float32, and so are the differences that the reference makes statistics of.
            collected.update(robot, (steps[-1:] - steps[:1]).astype(np.float32) if relative else steps)
            rows += 1
    if blank and unknown == "error":
        raise EmbodimentError(
            expected="a robot type in every row that statistics are made from",
            got=f"{len(blank)} rows where it is blank, for example {', '.join(blank[:5])}",
            fix="Correct the column robot_type, or pass unknown_robots=pool: those rows are then normalised "
            "with the statistics of all robots together.",
        )
    return StreamedStatistics(collected.result(unknown=unknown), rows, tuple(quarantined))


def table_statistics(
    table: PairTable, *, relative: bool = False, unknown: Unknown = "error"
) -> StreamedStatistics:
    """Compute statistics of every time step of every chunk of a table, whatever source it is of.

    Args:
        table: Rows of a split.
        relative: Of the difference between the last and the first step of each chunk instead.
        unknown: What becomes of blank robot types where other rows have one, see `RobotStatistics`.

    Raises:
        EmbodimentError: No row is usable, or `unknown` is `error` and some types are blank.
    """
    actions, types = table.actions(), table.robot_types()
    values = actions[:, -1] - actions[:, 0] if relative else actions
    robots = types if any(types) else (NO_COLUMN,) * len(types)
    return StreamedStatistics(
        fit_robots(values, robots, unknown=unknown), len(table), tuple(table.quarantined)
    )


def write_statistics(path: Path, found: StreamedStatistics, *, dataset: str, relative: bool = False) -> None:
    """Write the JSON file that the reference's regression script reads.

    Raises:
        StoreError: The disk is full or not writable.
    """
    robots = {robot or BLANK: _to_json(stats) for robot, stats in found.statistics.robots.items()}
    plain = _to_json(found.statistics.everything) if list(robots) == [NO_COLUMN] else {"robot_stats": robots}
    value = {
        "dataset": dataset,
        "action_mode": "relative" if relative else "absolute",
        "action_dim": len(found.statistics.everything.mean),
        "missing_actions": len(found.quarantined),
        "missing_action_examples": [q.item for q in found.quarantined[:20]],
        "global": _to_json(found.statistics.everything),
    }
    write_json(path, value | plain, seal=True)


def read_statistics(
    path: Path, *, dataset: str, action_dim: int, unknown: Unknown = "error", relative: bool | None = None
) -> RobotStatistics:
    """Read statistics as the reference writes them.

    They are wrapped in `robot_stats`, a bare mapping of robots, or, of datasets without robot types, plain.

    Args:
        path: JSON file.
        dataset: Dataset they must be of, where the file says so.
        action_dim: Numbers a of an action.
        unknown: See `RobotStatistics`.
        relative: Whether they must be of differences or of actions, where the file says which; None for
            either.

    Raises:
        EmbodimentError: The file is missing, damaged, or of another dataset, actions or action layout.
    """
    try:
        value = read_json(path)
        plain = {NO_COLUMN: value} if "mean" in value else value
        robots = {
            "" if robot == BLANK and unknown == "identity" else robot: _from_json(stats, action_dim)
            for robot, stats in value.get("robot_stats", plain).items()
            if isinstance(stats, dict) and "mean" in stats and robot != "global"
        }
        whole = _from_json(value["global"], action_dim) if "global" in value else _pooled(robots)
    except Exception as error:  # the file is anything that JSON holds
        raise EmbodimentError(
            expected=f"statistics of {action_dim} action dimensions in {path}",
            got=str(error),
            fix="Compute them with `lary data statistics`.",
        ) from error
    if value.get("dataset", dataset) != dataset or not robots:
        raise EmbodimentError(
            expected=f"statistics of {dataset} in {path}",
            got=f"those of {value.get('dataset')}, {len(robots)} robots",
            fix=f"Compute them with `lary data statistics source={dataset}`.",
        )
    wanted = None if relative is None else "relative" if relative else "absolute"
    if wanted is not None and value.get("action_mode", wanted) != wanted:
        raise EmbodimentError(
            expected=f"statistics of {wanted} actions in {path}",
            got=f"those of {value['action_mode']} ones",
            fix=f"Pass targets=[{'displacement' if wanted == 'absolute' else 'absolute'}], or another file.",
        )
    return RobotStatistics(robots, whole, unknown)


def _to_json(stats: ActionStats) -> dict[str, Any]:
    return {"count": stats.count, "mean": list(stats.mean), "std": list(stats.std)}


def _from_json(value: dict[str, Any], action_dim: int) -> ActionStats:
    mean, std = (np.asarray(value[name], dtype=np.float64) for name in ("mean", "std"))
    if mean.shape != (action_dim,) or std.shape != (action_dim,) or not np.isfinite([mean, std]).all():
        raise ValueError(f"mean of shape {mean.shape}, std of shape {std.shape}")
    return ActionStats(tuple(mean.tolist()), tuple(floored(std).tolist()), int(value.get("count", 0)))


def _pooled(robots: dict[str, ActionStats]) -> ActionStats:
    """Return the statistics of all robots together, from those of each; counts are needed for it."""
    counts = np.array([stats.count for stats in robots.values()], dtype=np.float64)
    if not counts.sum():
        raise ValueError("no counts of actions, so that the robots cannot be pooled")
    means: NDArray[np.float64] = np.array([stats.mean for stats in robots.values()])
    squares = np.array([stats.std for stats in robots.values()]) ** 2 + means**2
    mean = counts @ means / counts.sum()
    std = np.sqrt(np.maximum(counts @ squares / counts.sum() - mean**2, 0.0))
    return ActionStats(tuple(mean.tolist()), tuple(floored(std).tolist()), int(counts.sum()))
