"""The registry of metrics, and how their names and numbers are spelled.

A metric is one `register_metric` in a module of this package.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from numpy.typing import ArrayLike

from lary_policy.paths import import_modules
from lary_policy.scores.intervals import Estimate, Interval, bootstrap_mean_ci, wilson_ci
from lary_policy.scores.score import Score
from lary_policy.types import EpisodeResult


@dataclass(frozen=True)
class Metric:
    """One way to measure, and how it is shown.

    Attributes:
        name: In scores; parts follow as `name/part`.
        label: Words for tables.
        higher_is_better: True, False, or None when neither direction is known to be good.
        percent: Shown in percent.
        unit: Unit behind the number, or empty.
        order: Position in tables.
        of: Type of what it is measured on.
        estimate: An evaluation of that type and the recording of each of its samples to the metric and its
            parts; parts that the evaluation does not have are left out.
    """

    name: str
    label: str
    higher_is_better: bool | None
    percent: bool = False
    unit: str = ""
    order: int = 99
    of: type | None = None
    estimate: Callable[[Any, ArrayLike], Mapping[str, Estimate]] | None = None


_METRICS: dict[str, Metric] = {}


def register_metric(metric: Metric) -> None:
    """Make a metric known under its name."""
    _METRICS[metric.name] = metric


@functools.cache
def list_metrics() -> Mapping[str, Metric]:
    """Return every metric by name: what the modules of this package register."""
    import_modules("lary_policy.scores")
    return _METRICS


def estimates(evaluation: object, clusters: ArrayLike) -> dict[str, Estimate]:
    """Return every metric of an evaluation, and its parts, by name.

    Args:
        evaluation: `ActionEvaluation`, `ClassEvaluation` or `EpisodeOutcomes`.
        clusters: Recording of each of its N samples; whole recordings are drawn.
    """
    found: dict[str, Estimate] = {}
    for metric in sorted(list_metrics().values(), key=lambda m: m.order):
        if metric.of is not None and metric.estimate is not None and isinstance(evaluation, metric.of):
            found |= metric.estimate(evaluation, clusters)
    return found


MODES: dict[str, str] = {
    "pair": "inverse model",
    "subgoal": "subgoal mode",
    "policy": "policy mode",
    "atomic": "atomic primitives",
    "composite": "composite actions",
}
TARGETS: dict[str, str] = {
    "absolute": "absolute targets",
    "relative": "relative targets",
    "relative_pose": "relative pose over the chunk",
    "displacement": "last minus first action (LARYBench's relative)",
    "class": "classes",
}


def metric_info(metric: str) -> Metric:
    """Describe `name` or `name/part`; unknown metrics are shown under their own name without a direction."""
    name, _, part = metric.partition("/")
    info = list_metrics().get(name)
    if info is None:
        return Metric(metric, metric, None)
    label = f"{info.label}, {part}" if part else info.label
    return replace(info, name=metric, label=label, order=info.order + (1 if part else 0))


def mode_label(mode: str) -> str:
    """Return the words for a mode, or the mode itself."""
    return MODES.get(mode, mode)


def name_mode(mode: str, words: str) -> None:
    """Make the words for a mode known."""
    MODES[mode] = words


def target_label(target: str) -> str:
    """Return the words for a target, or the target itself."""
    return TARGETS.get(target, target)


def _decimals(width: float, least: int, most: int) -> int:
    """Decimals that show the first digit of half an interval's width."""
    return min(most, max(least, -math.floor(math.log10(width / 2)))) if width > 0 else least


def format_number(
    value: float, ci95: Interval | None, *, percent: bool, no_interval: str = ""
) -> tuple[str, str]:
    """Return value and interval as text, e.g. `("0.31", "[0.29, 0.33]")` or `("96 %", "[87, 99]")`.

    Without an interval the second says so and why: `not estimable: one recording`.
    """
    ends = ci95 or ()
    width = ends[1] - ends[0] if ends else 0.0
    scale = 100.0 if percent else 1.0
    digits = _decimals(width * scale, 0, 2) if percent else _decimals(width, 2, 6)
    if not ends and not percent:  # nothing says which digits matter: three that are not zero
        digits = min(6, max(2, 2 - math.floor(math.log10(abs(value))))) if value else 2
    numbers = [f"{x * scale:.{digits}f}" for x in (value, *ends)]
    shown = f"[{numbers[1]}, {numbers[2]}]" if ends else f"not estimable: {no_interval or 'no interval'}"
    return (f"{numbers[0]} %" if percent else numbers[0]), shown


def format_score(score: Score) -> str:
    """Return `0.31 [0.29, 0.33]`, with percent or unit where the metric has one."""
    info = metric_info(score.metric)
    value, interval = format_number(
        score.value, score.ci95, percent=info.percent, no_interval=score.no_interval
    )
    interval = interval if score.ci95 else f"(interval {interval})"
    return f"{value} {interval}{f' {info.unit}' if info.unit else ''}"


def join_words(words: list[str], last: str = "and") -> str:
    """Join words as in a sentence: `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


@dataclass(frozen=True)
class EpisodeOutcomes:
    """Outcomes of independent episodes.

    Attributes:
        episodes: At least one.
    """

    episodes: tuple[EpisodeResult, ...]


def success_estimates(episodes: Sequence[EpisodeResult]) -> dict[str, Estimate]:
    """Return the rates of success ever and at the end (Wilson intervals) and the mean progress, by name.

    Raises:
        ShapeError: There are no episodes.
    """
    return estimates(EpisodeOutcomes(tuple(episodes)), [e.seed for e in episodes])


def _rate(metric: str, outcomes: EpisodeOutcomes, _: ArrayLike) -> dict[str, Estimate]:
    hits = sum(bool(getattr(episode, metric)) for episode in outcomes.episodes)
    return {metric: wilson_ci(hits, len(outcomes.episodes))}


def _progress(outcomes: EpisodeOutcomes, clusters: ArrayLike) -> dict[str, Estimate]:
    return {"progress": bootstrap_mean_ci([episode.progress for episode in outcomes.episodes], clusters)}


register_metric(Metric("progress", "progress", True, True, order=32, of=EpisodeOutcomes, estimate=_progress))
register_metric(
    Metric("speed", "speed of success", True, True, order=33)
)  # of the league: no score of its own
for _name, _label, _order in (("success", "success", 30), ("success_at_end", "success at the end", 31)):
    register_metric(
        Metric(_name, _label, True, True, order=_order, of=EpisodeOutcomes, estimate=partial(_rate, _name))
    )
