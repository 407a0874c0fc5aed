"""How actions of a source are normalised, and where mean and standard deviation come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lary_policy.data.robot_statistics import RobotStatistics, Unknown, fit_robots
from lary_policy.data.statistics import CONSTANTS
from lary_policy.embodiment import ActionStats
from lary_policy.errors import EmbodimentError


@dataclass(frozen=True)
class Scaling:
    """Statistics of action targets.

    Attributes:
        statistics: Of each robot type; of one type "" where robots are not told apart.
        per_robot: Whether robots are told apart.
        origin: Where the numbers come from, in words.
    """

    statistics: RobotStatistics
    per_robot: bool
    origin: str

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

    def unknown(self, robots: Sequence[str]) -> int:
        """Return how many rows are of a type without statistics of its own."""
        return sum(robot not in self.statistics.robots for robot in self._types(robots))

    def _types(self, robots: Sequence[str]) -> Sequence[str]:
        return robots if self.per_robot else [""] * len(robots)


def fit_scaling(
    key: str,
    protocol: str,
    target: str,
    targets: Tensor,
    robots: Sequence[str],
    items: Sequence[str],
    *,
    least: Sequence[float] | None,
    unknown: Unknown,
) -> Scaling:
    """Return the statistics of a source's targets.

    Under `lary` CALVIN and VLABench have constants for absolute targets, datasets of several robots have
    statistics of each type (rows of an unknown type stay as they are), and all others those of the training
    split. Under `native` all statistics are of the training split, and unknown types are never passed over.

    Args:
        key: Source.
        protocol: `native` or `lary`.
        target: Name of the action target.
        targets: Of the training split `[N k a]`.
        robots: Robot type of each row.
        items: Where each row stands, for messages.
        least: Smallest deviations of a number worth resolving, for `native`.
        unknown: What rows of blank or unknown types get under `native`.

    Raises:
        EmbodimentError: There are no rows, or a robot type is blank; the rows are named.
    """
    if protocol == "lary" and target == "absolute" and key in CONSTANTS:
        return Scaling(_one(CONSTANTS[key]), False, "constants of the reference")
    if any(robots):
        policy: Unknown = "identity" if protocol == "lary" else unknown
        _require_types(robots, items, policy)
        return Scaling(
            fit_robots(targets, robots, unknown=policy), True, f"train split, each robot ({policy})"
        )
    stats = ActionStats.fit(targets, None if protocol == "lary" else least)
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
