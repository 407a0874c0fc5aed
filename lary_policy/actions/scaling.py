"""Statistics of actions for each type of robot; blank and unknown types are never passed over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from lary_policy.actions.statistics import ActionStats, Floors, RunningStatistics
from lary_policy.errors import EmbodimentError

Unknown = Literal["error", "pool", "identity"]
UNKNOWN_ROBOTS = ("error", "pool", "identity")
_NAMED_ROWS = 5  # rows that an error message names
_NOT_STATED = 0  # the benchmark does not say how many actions its constants were computed from


def _constants(mean: Sequence[float], std: Sequence[float]) -> ActionStats:
    return ActionStats(tuple(mean), tuple(std), _NOT_STATED)


# Literals of the reference's regression script (regression/main.py at commit 2092d20; protocol section 5.1).
_CALVIN = _constants(
    (0.03993005, -0.1113833, 0.50033228, 1.04580053, -0.08165425, 1.58390577, -0.08441296),
    (0.14403107, 0.09919957, 0.05518382, 2.89455128, 0.13053949, 0.57474015, 0.99643086),
)
_VLABENCH = _constants(
    (0.02959172, 0.39965126, 0.25788001, 1.0136418, -0.38189239, -0.13961033, 0.54842541),
    (0.15966601, 0.13813421, 0.1362726, 2.70449661, 0.63210694, 1.72885403, 0.49764945),
)
CONSTANTS: Mapping[str, ActionStats] = {
    "calvin": _CALVIN,
    "vlabench": _VLABENCH,
    "vlabench_15": _VLABENCH,
    "vlabench_30": _VLABENCH,
}


@dataclass(frozen=True)
class RobotStatistics:
    """Statistics of each type of robot."""

    robots: Mapping[str, ActionStats]  # by type
    everything: ActionStats  # over all robots
    # What rows of a blank or unknown type get: an `error`, the statistics of `everything` (`pool`), or mean 0
    # and std 1 (`identity`: what the reference does without a word)
    unknown: Unknown = "error"

    def of_rows(self, robot_types: Sequence[str], items: Sequence[str] = ()) -> tuple[Tensor, Tensor]:
        """Return mean and std of each row, float64 `[N, a]` each; `items` say where they stand.

        Raises:
            EmbodimentError: `unknown` is `error` and a type is blank or has no statistics.
        """
        bad = [i for i, robot in enumerate(robot_types) if robot not in self.robots]
        if bad and self.unknown == "error":
            raise self._unknown_types(
                [robot_types[i] for i in bad], [items[i] for i in bad] if items else bad
            )
        fallback = self.everything
        if self.unknown == "identity":
            dim = len(fallback.mean)
            fallback = ActionStats((0.0,) * dim, (1.0,) * dim, 0)
        chosen = [self.robots.get(robot, fallback) for robot in robot_types]
        mean = torch.tensor([s.mean for s in chosen], dtype=torch.float64)
        return mean, torch.tensor([s.std for s in chosen], dtype=torch.float64)

    def normalise(self, actions: Tensor, robot_types: Sequence[str], items: Sequence[str] = ()) -> Tensor:
        """Map actions `[N, k, a]` to zero mean and unit variance of their robot."""
        mean, std = (v.to(actions).unsqueeze(1) for v in self.of_rows(robot_types, items))
        return (actions - mean) / std

    def denormalise(self, actions: Tensor, robot_types: Sequence[str]) -> Tensor:
        """Invert `normalise`."""
        mean, std = (v.to(actions).unsqueeze(1) for v in self.of_rows(robot_types))
        return actions * std + mean

    def _unknown_types(self, types: Sequence[str], rows: Sequence[Any]) -> EmbodimentError:
        names = ", ".join(sorted({f"'{t}'" if t else "(blank)" for t in types}))
        return EmbodimentError(
            expected=f"robot types with statistics: {', '.join(sorted(self.robots))}",
            got=f"{len(types)} rows of type {names}, for example {', '.join(map(str, rows[:_NAMED_ROWS]))}",
            fix="Correct the column robot_type, or pass unknown_robots=pool to normalise those rows with the "
            "statistics of all robots together.",
        )


@dataclass
class RobotAccumulator:
    """Collects actions robot by robot, file after file."""

    dim: int  # numbers a of an action
    # What was seen of each type so far; blank ones are under ""
    robots: dict[str, RunningStatistics] = field(default_factory=dict)

    def update(self, robot_type: str, actions: NDArray[Any]) -> None:
        """Take in actions `[n, a]` of a robot."""
        self.robots.setdefault(robot_type, RunningStatistics(self.dim)).update(actions)

    def merge(self, other: RobotAccumulator) -> None:
        """Take in all that another one has seen: each robot pooled over both."""
        for robot, seen in other.robots.items():
            self.robots.setdefault(robot, RunningStatistics(self.dim)).merge(seen)

    def result(self, *, unknown: Unknown = "error", layout: Floors | None = None) -> RobotStatistics:
        """Return the statistics, `floored` for `layout`.

        Blank types are no robot of their own and count for `everything` only, except with `identity`, where
        they are pooled into one robot as in the reference; for `unknown` see `RobotStatistics`.

        Raises:
            EmbodimentError: Nothing was taken in, or `unknown` is `error` and there are blank types.
        """
        everything = RunningStatistics(self.dim)
        for seen in self.robots.values():
            everything.merge(seen)
        kept = {robot: seen for robot, seen in sorted(self.robots.items()) if robot or unknown == "identity"}
        found = {robot: seen.result(layout) for robot, seen in kept.items()}
        if "" in self.robots and unknown == "error":
            raise EmbodimentError(
                expected="a robot type in every row that statistics are made from",
                got=f"{self.robots[''].count} actions of rows where it is blank",
                fix="Correct the column robot_type, or pass unknown_robots=pool: those rows are then "
                "normalised with the statistics of all robots together.",
            )
        return RobotStatistics(found, everything.result(layout), unknown)


def fit_robots(
    actions: Tensor, robot_types: Sequence[str], *, unknown: Unknown = "error", layout: Floors | None = None
) -> RobotStatistics:
    """Compute statistics of actions `[N, k, a]`, or differences `[N, a]`, and the robot types of N rows.

    Raises:
        EmbodimentError: There are no rows, or `unknown` is `error` and a type is blank.
    """
    collected = RobotAccumulator(actions.shape[-1])
    values = actions.reshape(len(actions), -1, actions.shape[-1]).double().numpy()
    for robot in dict.fromkeys(robot_types):
        rows = [i for i, other in enumerate(robot_types) if other == robot]
        collected.update(robot, values[rows].reshape(-1, collected.dim))
    return collected.result(unknown=unknown, layout=layout)


@dataclass(frozen=True)
class Scaling:
    """Statistics of action targets."""

    statistics: RobotStatistics  # of each robot type; of one type "" where robots are not told apart
    per_robot: bool  # whether robots are told apart
    origin: str  # where the numbers come from, in words

    @property
    def everything(self) -> ActionStats:
        """Statistics over all robots."""
        return self.statistics.everything

    def normalise(self, targets: Tensor, robots: Sequence[str], items: Sequence[str]) -> Tensor:
        """Map targets `[N k a]` to zero mean and unit variance.

        Raises:
            EmbodimentError: A robot type is blank or has no statistics; the rows are named.
        """
        return self.statistics.normalise(targets, self._types(robots), items)

    def denormalise(self, targets: Tensor, robots: Sequence[str]) -> Tensor:
        """Invert `normalise`."""
        return self.statistics.denormalise(targets, self._types(robots))

    def of_rows(self, robots: Sequence[str]) -> RowScale:
        """Return what undoes the normalisation of targets `[N k a]` of these rows."""
        return RowScale(self, tuple(robots))

    def unknown(self, robots: Sequence[str]) -> int:
        """Return how many rows are of a type without statistics of its own."""
        return sum(robot not in self.statistics.robots for robot in self._types(robots))

    def _types(self, robots: Sequence[str]) -> Sequence[str]:
        return robots if self.per_robot else [""] * len(robots)


@dataclass(frozen=True)
class RowScale:
    """The scaling of some rows, each with the statistics of its own robot."""

    scaling: Scaling  # statistics
    robots: tuple[str, ...]  # robot type of each row

    def denormalise(self, actions: Tensor) -> Tensor:
        """Map normalised `[N k a]` of these rows to physical units."""
        return self.scaling.denormalise(actions, self.robots)


def fit_scaling(
    key: str,
    protocol: str,
    target: str,
    targets: Tensor,
    robots: Sequence[str],
    items: Sequence[str],
    *,
    layout: Floors | None,
    unknown: Unknown,
) -> Scaling:
    """Return the statistics of targets `[N k a]` of a source's training split.

    Under `lary` CALVIN and VLABench have constants for absolute targets, datasets of several robots have
    statistics of each type (rows of an unknown type stay as they are), and all others those of the training
    split. Under `native` all statistics are of the training split, `layout` says what deviations are worth
    resolving, and unknown types are never passed over: `unknown` says what their rows get. `items` says where
    each row stands, for messages.

    Raises:
        EmbodimentError: There are no rows, or a robot type is blank; the rows are named.
    """
    if protocol == "lary" and target == "absolute" and key in CONSTANTS:
        return Scaling(_one(CONSTANTS[key]), False, "constants of the reference")
    floors = None if protocol == "lary" else layout
    if any(robots):
        policy: Unknown = "identity" if protocol == "lary" else unknown
        _require_types(robots, items, policy)
        return Scaling(
            fit_robots(targets, robots, unknown=policy, layout=floors),
            True,
            f"train split, each robot ({policy})",
        )
    stats = ActionStats.fit(targets, floors)
    return Scaling(_one(stats), False, "train split")


def _one(stats: ActionStats) -> RobotStatistics:
    return RobotStatistics({"": stats}, stats)


def _require_types(robots: Sequence[str], items: Sequence[str], policy: Unknown) -> None:
    blank = [item for robot, item in zip(robots, items, strict=True) if not robot]
    if blank and policy == "error":
        raise EmbodimentError(
            expected="a robot type in every row of the training split",
            got=f"{len(blank)} of {len(robots)} rows where it is blank, for example {', '.join(blank[:5])}",
            fix="Correct the column robot_type, or pass unknown_robots=pool: those rows are then normalised "
            "with the statistics of all robots together.",
        )
