"""How well a score foretells success over points (view, task): statistics and their intervals.

Two intervals answer two questions. Over families of encoders, whole families are drawn: would it hold for
other encoders? Over seeds and episodes, training seeds of each point and episode seeds of each task (the same
for all views, as these ran the same episodes) are drawn: would it hold if these encoders were run again?
Drawn episodes add their chance once more, so these intervals reach a little further down than up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from lary_policy.errors import ShapeError
from lary_policy.scores.agreement import CORRELATIONS, rank_violations
from lary_policy.scores.intervals import Floats, Interval, percentiles

STATISTICS = {**CORRELATIONS, "mmrv": rank_violations}
RESAMPLES = 500  # ends of intervals move by about .01 between seeds; a page has hundreds of them
Rows = Callable[[Floats, Floats], Floats]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Points:
    """N points, each a view on a task, that were scored offline and driven in closed loop.

    Attributes:
        values: The offline score, higher is better (errors negated), `[N]`.
        outcomes: Of each point success by training seed and episode seed, `[seeds, episodes]`, 0 to 1.
        families: Family of each point's encoder.
        tasks: Task of each point; with more than one, both sides are centred per task.

    Raises:
        ShapeError: There is not one of each a point, or views of one task ran other numbers of episodes.
    """

    values: Floats
    outcomes: tuple[Floats, ...]
    families: tuple[str, ...]
    tasks: tuple[str, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.values), len(self.outcomes), len(self.families), len(self.tasks)}
        episodes = {(t, o.shape[1]) for t, o in zip(self.tasks, self.outcomes, strict=False)}
        if len(lengths) != 1 or len(episodes) != len(set(self.tasks)):
            raise ShapeError(
                expected="one value, outcomes, family and task a point, and equal episodes within a task",
                got=f"lengths {sorted(lengths)}, episodes {sorted(episodes)}",
                fix="Run all views of a task with the same `episodes`.",
            )

    @cached_property
    def success(self) -> Floats:
        """Rate of success of each point."""
        return np.array([one.mean() for one in self.outcomes])

    def select(self, index: Sequence[int] | Indices) -> Points:
        """Return some of the points."""
        kept = [int(i) for i in index]
        parts = ([part[i] for i in kept] for part in (self.outcomes, self.families, self.tasks))
        found = Points(self.values[kept], *map(tuple, parts))  # type: ignore[arg-type]
        found.__dict__["success"] = self.success[kept]  # of thousands of draws, whose episodes are long
        return found

    def why_none(self) -> str:
        """Return why nothing can be computed, in words; empty if something can."""
        if len(self.values) < 3:
            return f"{len(self.values)} points"
        sides = {"the score": self.values, "success": self.success}
        flat = [name for name, side in sides.items() if np.ptp(centred(side, self.tasks)) < 1e-12]
        return f"{' and '.join(flat)} the same everywhere" if flat else ""


@dataclass(frozen=True)
class Reading:
    """A statistic with both intervals; None where there are none to be had."""

    value: float
    over_families: Interval | None
    over_episodes: Interval | None


def centred(values: Floats, tasks: Sequence[str]) -> Floats:
    """Return `[... N]` less the mean of each point's task."""
    member = _members(tuple(tasks))
    if values.ndim == 1 or len(values) == 1:  # most calls: a drawn set of points
        sums, flat = np.bincount(member, values.reshape(-1)), values.reshape(-1)
        return np.asarray((flat - (sums / np.bincount(member))[member]).reshape(values.shape))
    weights = (member[:, None] == member[None, :]).astype(np.float64)
    return values - values @ (weights / weights.sum(0))


@lru_cache(maxsize=1024)
def _members(tasks: tuple[str, ...]) -> Indices:
    return np.unique(np.asarray(tasks), return_inverse=True)[1]


def readings(
    points: Points, *, seed: int = 0, resamples: int = RESAMPLES, kinds: Sequence[str] = tuple(STATISTICS)
) -> dict[str, Reading]:
    """Return every statistic of `STATISTICS` between score and success (MMRV: 0 is perfect).

    Args:
        points: At least 3 that vary, see `Points.why_none`.
        seed: Of the resampling.
        resamples: Bootstrap samples.
        kinds: Which statistics.
    """
    drawn = drawn_success(points, seed, resamples)
    families = [
        (points.select(pick), times) for pick, times in family_draws(points.families, seed, resamples)
    ]
    found = {}
    for kind, rows in ((kind, STATISTICS[kind]) for kind in kinds):
        over = [value for some, times in families for value in [_of(some, rows)] * times]
        episodes = _rows(points.values[None], drawn, points.tasks, rows)
        found[kind] = Reading(_of(points, rows), _ends(np.array(over)), _ends(episodes))
    return found


def difference(first: Points, second: Points, *, seed: int = 0, resamples: int = RESAMPLES) -> Reading:
    """Return how much more two scores of the same points correlate with success: Pearson of first - second.

    Raises:
        ShapeError: They are of other points.
    """
    if (first.families, first.tasks) != (second.families, second.tasks):
        raise ShapeError(
            expected="two scores of the same points", got="others", fix="Keep the points that have both."
        )
    rows = CORRELATIONS["pearson"]

    def apart(pick: Indices) -> float:
        return _of(first.select(pick), rows) - _of(second.select(pick), rows)

    picks = family_draws(first.families, seed, resamples)
    over = [value for pick, times in picks for value in [apart(pick)] * times]
    drawn = drawn_success(first, seed, resamples)
    episodes = [_rows(one.values[None], drawn, one.tasks, rows) for one in (first, second)]
    value = apart(np.arange(len(first.values)))
    return Reading(value, _ends(np.array(over)), _ends(episodes[0] - episodes[1]))


def partial_correlation(points: Points, given: Floats) -> float | None:
    """Return Pearson's r of score and success without what `given` `[N]` explains of both linearly.

    None where `given` varies in no task, or explains one side completely.
    """
    x, y, z = (centred(side, points.tasks) for side in (points.values, points.success, given))
    if np.ptp(z) < 1e-12:
        return None
    x, y = (side - z * (side @ z) / (z @ z) for side in (x, y))
    if min(x @ x, y @ y) < 1e-12:
        return None
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def without_each(points: Points) -> dict[str, float]:
    """Return Pearson's r without each family in turn; families whose absence leaves nothing are left out."""
    found = {}
    for family in sorted(set(points.families)):
        rest = points.select([i for i, one in enumerate(points.families) if one != family])
        if not rest.why_none():
            found[family] = _of(rest, CORRELATIONS["pearson"])
    return found


def family_draws(families: Sequence[str], seed: int, resamples: int) -> list[tuple[Indices, int]]:
    """Return the points of drawn families, and how often they were drawn; nothing for one family."""
    names, member = np.unique(np.asarray(families), return_inverse=True)
    if len(names) < 2:
        return []
    places = [np.flatnonzero(member == k) for k in range(len(names))]
    drawn = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
    different, times = np.unique(np.sort(drawn, axis=1), axis=0, return_counts=True)
    chosen = (np.concatenate([places[k] for k in row]) for row in different)
    return list(zip(chosen, times.tolist(), strict=True))


def drawn_success(points: Points, seed: int, resamples: int) -> Floats:
    """Return success `[R N]` over drawn training seeds of each point and drawn episodes of each task."""
    generator = np.random.default_rng(seed)
    drawn = np.empty((resamples, len(points.values)))
    for task in dict.fromkeys(points.tasks):
        mine = [i for i, one in enumerate(points.tasks) if one == task]
        count = points.outcomes[mine[0]].shape[1]
        episodes = generator.multinomial(count, np.full(count, 1 / count), resamples) / count
        for i in mine:
            seeds = len(points.outcomes[i])
            weights = generator.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
            drawn[:, i] = np.einsum("rs,se,re->r", weights, points.outcomes[i], episodes)
    return drawn


def _of(points: Points, rows: Rows) -> float:
    return float(_rows(points.values[None], points.success[None], points.tasks, rows)[0])


def _rows(values: Floats, success: Floats, tasks: tuple[str, ...], rows: Rows) -> Floats:
    """Return the statistic of each row; NaN where a side does not vary."""
    left, right = (centred(side, tasks).round(12) for side in np.broadcast_arrays(values, success))
    flat = (np.ptp(left, axis=1) == 0) | (np.ptp(right, axis=1) == 0)
    found = np.full(len(left), np.nan)
    if not flat.all():
        found[~flat] = np.concatenate(
            [rows(left[~flat][i : i + 100], right[~flat][i : i + 100]) for i in range(0, (~flat).sum(), 100)]
        )
    return found


def _ends(draws: Floats) -> Interval | None:
    """Return the central 95 % of the draws that have a value; None where fewer than half do."""
    usable = draws[np.isfinite(draws)]
    return percentiles(usable, 0.95) if len(usable) > len(draws) / 2 else None
