"""How often the robot succeeds in closed loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from numpy.typing import ArrayLike

from lary_policy.scores.intervals import Estimate, wilson_ci
from lary_policy.scores.metrics import Metric, estimates, register_metric
from lary_policy.types import EpisodeResult


@dataclass(frozen=True)
class EpisodeOutcomes:
    """Outcomes of independent episodes.

    Attributes:
        episodes: At least one.
    """

    episodes: tuple[EpisodeResult, ...]


def success_estimates(episodes: Sequence[EpisodeResult]) -> dict[str, Estimate]:
    """Return the rates of success ever and at the end, with Wilson intervals, by metric name.

    Raises:
        ShapeError: There are no episodes.
    """
    return estimates(EpisodeOutcomes(tuple(episodes)), [e.seed for e in episodes])


def _rate(metric: str, outcomes: EpisodeOutcomes, _: ArrayLike) -> dict[str, Estimate]:
    hits = sum(bool(getattr(episode, metric)) for episode in outcomes.episodes)
    return {metric: wilson_ci(hits, len(outcomes.episodes))}


for _name, _label, _order in (("success", "success", 30), ("success_at_end", "success at the end", 31)):
    register_metric(
        Metric(_name, _label, True, True, order=_order, of=EpisodeOutcomes, estimate=partial(_rate, _name))
    )
