"""What success to expect of an encoder that was probed but never driven, from the points of a study.

For each closed loop one linear model over all tasks, on what differs within a task: with the offline scores
of view v on task t standardised over the study's views of t (errors negated), z, and its success s,

    s(v, t) = mean_t s + z(v, t) beta + error,

beta by ridge regression whose penalty is chosen by leaving views out. The interval is conformal (Vovk et
al., 2005; for regression Lei et al., JASA 113, 2018): the 95 % quantile, with the correction for n points, of
errors of views that were left out, in units of their task's spread of success. Coverage is that of the same
interval over views left out in turn, each with an interval of the others' errors. Views are left out by
encoder family where there are `CLAIM_CLUSTERS` families or more: a new encoder is of no known family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lary_policy.errors import DatasetError
from lary_policy.report.compare import is_control
from lary_policy.report.driven import Driven
from lary_policy.scores import CLAIM_CLUSTERS, list_proxies

Floats = NDArray[np.float64]
LEAST_VIEWS = 8  # of a task: mean and spread of fewer say little about the next one
LEAST_POINTS = 20  # of a loop: the 95 % quantile of fewer errors does not exist
PENALTIES = (0.01, 0.1, 1.0, 10.0)  # of ridge regression, a point
LEVEL = 0.95


@dataclass(frozen=True)
class Foretold:
    """The success to expect of one view on one task in one loop.

    Attributes:
        view: Label of the view.
        task: Name of the task.
        loop: Mode of the loop.
        value: Expected success, between 0 and 1 (cut there).
        interval: 95 % prediction interval, cut there too.
        proxies: The offline scores it is made of.
        points: Points of the study behind it, of all tasks.
        coverage: Share of those points that such intervals cover when they are left out.
        left_out_by: What was left out at a time: `family` or `view`.
        missing: Points of the study that lack one of the scores.
    """

    view: str
    task: str
    loop: str
    value: float
    interval: tuple[float, float]
    proxies: tuple[str, ...]
    points: int
    coverage: float
    left_out_by: str
    missing: int


@dataclass(frozen=True, eq=False)
class _Known:
    """N points of a loop: scores `[N p]`, success, tasks, groups left out together and episodes `[N]`."""

    scores: Floats
    success: Floats
    tasks: NDArray[np.str_]
    groups: NDArray[np.str_]
    episodes: Floats

    def without(self, group: str) -> _Known:
        return self.where(self.groups != group)

    def where(self, kept: NDArray[np.bool_]) -> _Known:
        scores, success, tasks = self.scores[kept], self.success[kept], self.tasks[kept]
        return _Known(scores, success, tasks, self.groups[kept], self.episodes[kept])

    def of_task(self, task: str) -> tuple[Floats, Floats, float, float]:
        """Return mean and deviation of the scores `[p]`, mean and spread of success; a spread is never 0.

        The spread holds the largest error that so many episodes leave, sqrt(1 / 4n).
        """
        mine = self.tasks == task
        scores, success = self.scores[mine], self.success[mine]
        if not mine.any():
            return np.zeros(self.scores.shape[1]), np.zeros(self.scores.shape[1]), 0.5, 0.5
        spread = math.sqrt(success.var() + 0.25 / self.episodes[mine].mean())
        return scores.mean(0), scores.std(0), float(success.mean()), spread


def foretell(
    points: Sequence[Driven], view: str, scores: Mapping[str, Mapping[str, float]]
) -> tuple[Foretold, ...]:
    """Return what to expect of a view on each task in each loop of a study.

    Args:
        points: Of a study; those of the same view, and of controls, are not used.
        view: Label of the view.
        scores: Its offline scores: task -> proxy -> value, as the probes report them.

    Raises:
        DatasetError: There are too few points, or none of a task.
    """
    found = []
    for loop in dict.fromkeys(p.loop for p in points):
        mine = [p for p in points if p.loop == loop and p.view != view and not is_control(p.view)]
        names = [n for n in list_proxies() if scores and all(n in of for of in scores.values())]
        names = [n for n in names if sum(n in p.proxies for p in mine) >= max(LEAST_POINTS, len(mine) / 2)]
        whole = [p for p in mine if all(n in p.proxies for n in names)]
        require_points(loop, whole, names, tuple(scores))
        known, by = _known(whole, names), "family" if _families(whole) >= CLAIM_CLUSTERS else "view"
        errors = _errors(known)
        reach, covered = _reach(errors), []
        for group in np.unique(known.groups):
            own = known.groups == group
            covered += (errors[own] <= _reach(errors[~own])).tolist()
        beta = _fit(known)
        for task, of in scores.items():
            row = np.array([list_proxies()[n].sign * of[n] for n in names])
            value, spread = _expect(known, beta, task, row)
            ends = (max(0.0, value - reach * spread), min(1.0, value + reach * spread))
            found.append(
                Foretold(
                    view, task, loop, min(1.0, max(0.0, value)), ends, tuple(names), len(whole),
                    float(np.mean(covered)), by, len(mine) - len(whole),
                )
            )  # fmt: skip
    return tuple(found)


def require_points(loop: str, whole: Sequence[Driven], names: Sequence[str], tasks: Sequence[str]) -> None:
    """Raise DatasetError unless there are points enough of a loop on tasks.

    Args:
        loop: Mode of the loop.
        whole: Points of the study.
        names: The proxies that they share with the encoder.
        tasks: Tasks asked for.
    """
    views = {task: len({p.view for p in whole if p.task == task}) for task in tasks}
    few = [f"{task} {count}" for task, count in views.items() if count < LEAST_VIEWS]
    if names and len(whole) >= LEAST_POINTS and not few:
        return
    enough = {p.task for p in whole}
    enough = {t for t in enough if len({p.view for p in whole if p.task == t}) >= LEAST_VIEWS}
    raise DatasetError(
        expected=f"at least {LEAST_POINTS} points of a study in loop {loop}, of {LEAST_VIEWS} views a task, "
        "that share an offline score with the encoder",
        got=f"{len(whole)} points, {len(names)} such scores; views of tasks: {', '.join(few) or 'enough'}",
        fix=f"Pass tasks=[{','.join(sorted(enough))}]." if enough and len(whole) >= LEAST_POINTS and names
        else "Let `lary suite suite=study` finish more points and pass its points.jsonl.gz: points=[<file>].",
    )  # fmt: skip


def _families(points: Sequence[Driven]) -> int:
    return len({p.family for p in points})


def _known(points: Sequence[Driven], names: Sequence[str]) -> _Known:
    by_family = _families(points) >= CLAIM_CLUSTERS
    return _Known(
        np.array([[list_proxies()[n].sign * p.proxies[n] for n in names] for p in points]),
        np.array([p.outcomes.mean() for p in points]),
        np.array([p.task for p in points]),
        np.array([p.family if by_family else p.view for p in points]),
        np.array([p.outcomes.size for p in points], dtype=np.float64),
    )


def _standardised(known: _Known) -> tuple[Floats, Floats]:
    """Return scores and success less their task's mean, scores in deviations; what does not vary is 0."""
    scores, success = np.zeros_like(known.scores), np.zeros_like(known.success)
    for task in np.unique(known.tasks):
        mine = known.tasks == task
        mean, std, rate, _ = known.of_task(task)
        scores[mine] = np.divide(
            known.scores[mine] - mean, std, out=np.zeros_like(scores[mine]), where=std > 0
        )
        success[mine] = known.success[mine] - rate
    return scores, success


def _ridge(known: _Known, penalty: float) -> Floats:
    z, s = _standardised(known)
    return np.asarray(np.linalg.solve(z.T @ z + penalty * len(z) * np.eye(z.shape[1]), z.T @ s))


def _fit(known: _Known) -> Floats:
    """Return beta with the penalty whose errors on views left out are smallest."""
    groups = np.unique(known.groups)
    wrong = dict.fromkeys(PENALTIES, 0.0)
    for group in groups if len(groups) > 2 else ():
        rest, own = known.without(group), known.where(known.groups == group)
        for penalty in PENALTIES:
            beta = _ridge(rest, penalty)
            for task, row, true in zip(own.tasks, own.scores, own.success, strict=True):
                wrong[penalty] += (_expect(rest, beta, task, row)[0] - true) ** 2
    return _ridge(known, min(PENALTIES, key=lambda one: wrong[one]))


def _expect(known: _Known, beta: Floats, task: str, row: Floats) -> tuple[float, float]:
    """Return expected success and its task's spread for scores `[p]`."""
    mean, std, rate, spread = known.of_task(task)
    z = np.divide(row - mean, std, out=np.zeros_like(row), where=std > 0)
    return rate + float(z @ beta), spread


def _errors(known: _Known) -> Floats:
    """Return how far each point is from what the views without its group foretell, in spreads `[N]`."""
    errors = np.zeros(len(known.success))
    for group in np.unique(known.groups):
        rest = known.without(group)
        beta = _fit(rest)
        for i in np.flatnonzero(known.groups == group):
            value, spread = _expect(rest, beta, known.tasks[i], known.scores[i])
            errors[i] = abs(min(1.0, max(0.0, value)) - known.success[i]) / spread
    return errors


def _reach(errors: Floats) -> float:
    """Return the quantile of errors that covers the next one with probability `LEVEL`."""
    place = min(len(errors), math.ceil((len(errors) + 1) * LEVEL))
    return float(np.sort(errors)[place - 1])


def foretold_rows(points: Sequence[Driven], found: Sequence[Foretold]) -> list[dict[str, Any]]:
    """Return a table: the study's measured views and the foretold ones of each task and loop, best first."""
    rows: list[dict[str, Any]] = []
    for task, loop in dict.fromkeys((one.task, one.loop) for one in found):
        mine: list[dict[str, Any]] = [
            {"view": p.view, "success": float(p.outcomes.mean()), "interval": None}
            for p in points
            if (p.task, p.loop) == (task, loop)
        ]
        mine += [
            {"view": one.view, "success": one.value, "interval": one.interval}
            for one in found
            if (one.task, one.loop) == (task, loop)
        ]
        mine = [{"task": task, "loop": loop, **row} for row in mine]
        rows += sorted(mine, key=lambda row: -row["success"])
    return rows
