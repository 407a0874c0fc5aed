"""What was scored offline and driven in closed loop: the points that a league is made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lary_policy.report.compare import REFERENCE_HEADS, Measured, family_of
from lary_policy.scores import SampleScores, Score, list_proxies

# What an episode came to, each from 0 to 1. `speed` is the share of the episode's steps that were left at the
# first success, 0 without one.
OUTCOMES = ("success", "success_at_end", "progress", "speed")


@dataclass(frozen=True, eq=False)
class Driven:
    """One view on one task in one closed loop.

    Attributes:
        view: Label of the view.
        task: Name of the task.
        loop: Mode of the loop.
        outcomes: Success by training seed and episode, `[seeds, episodes]`.
        proxies: Offline scores of the same view on the same task, by proxy, mean over training seeds.
        numbers: Numbers of one latent, or None if that is not known.
        others: The other `OUTCOMES` in the same form, as far as they are known.
        declared: Family that the encoder declares, if any.
    """

    view: str
    task: str
    loop: str
    outcomes: np.ndarray[Any, np.dtype[np.float64]]
    proxies: Mapping[str, float]
    numbers: int | None = None
    others: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]] = field(default_factory=dict)
    declared: str = ""

    @property
    def family(self) -> str:
        """Of which points are no independent evidence."""
        return self.declared or family_of(self.view)

    def spread(self) -> dict[str, float]:
        """Return how far success moves with the training seed and with the episodes, apart.

        Two-way analysis of variance without replication: every training seed ran the same episodes. `seeds`
        is the standard deviation of the true rate over training seeds, `episodes` the standard error of the
        mean over episodes that the number of episodes leaves, both in rates of success.
        """
        seeds, episodes = self.outcomes.shape
        found = (
            {"episodes": float(self.outcomes.mean(0).std(ddof=1) / np.sqrt(episodes))} if episodes > 1 else {}
        )
        if seeds > 1 and episodes > 1:
            rates = self.outcomes.mean(1)
            rest = self.outcomes - rates[:, None] - self.outcomes.mean(0) + rates.mean()
            noise = (rest**2).sum() / ((seeds - 1) * (episodes - 1)) / episodes
            found["seeds"] = float(np.sqrt(max(0.0, rates.var(ddof=1) - noise)))
        return found


def loops_driven(
    measured: Sequence[Measured], *, references: bool = False
) -> dict[tuple[str, ...], list[Measured]]:
    """Return the outcomes of trained heads by view, task, mode, target, head, protocol and split.

    Args:
        measured: Scores with the outcomes of their episodes.
        references: Whether those of the expert and of random heads are meant instead.
    """
    loops: dict[tuple[str, ...], list[Measured]] = defaultdict(list)
    for one in measured:
        s = one.score
        if s.stage == "rollout" and s.metric in OUTCOMES and (s.head in REFERENCE_HEADS) == references:
            loops[s.encoder, s.task, s.mode, s.target, s.head, s.protocol, s.split].append(one)
    return {key: runs for key, runs in loops.items() if any(r.score.metric == "success" for r in runs)}


def driven(
    measured: Sequence[Measured], scores: Sequence[Score], latents: Mapping[str, Sequence[int]]
) -> tuple[tuple[Driven, ...], tuple[str, ...]]:
    """Pair the closed loops of trained heads with every proxy of the same view and task.

    Args:
        measured: Scores with the outcomes of their episodes.
        scores: All scores.
        latents: Tokens and width of each view.

    Returns:
        The points, and sentences about scores of other weights or with several candidates, left out.
    """
    offline: dict[tuple[str, ...], list[Score]] = defaultdict(list)
    for score in scores:
        if score.stage == "probe":
            offline[score.encoder, score.task, score.protocol, score.mode, score.metric].append(score)
    points, notes = [], []
    for (view, task, loop, target, head, protocol, _), runs in loops_driven(measured).items():
        prints = {run.score.fingerprint for run in runs}
        found = {}
        for name, proxy in list_proxies().items():
            candidates = offline.get((view, task, protocol, proxy.question, proxy.metric), [])
            same, why = belonging(candidates, prints, target, head)
            if same and not why:
                found[name] = float(np.mean([s.value for s in same]))
            elif why:
                notes.append(f"{view}, {task}, {proxy.words}: {why}; left out.")
        numbers = int(np.prod(latents[view])) if view in latents else None
        tables: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}
        for metric in OUTCOMES:
            known = [r.samples for r in runs if r.score.metric == metric]
            tables |= {metric: _outcomes(known)} if known else {}
        points.append(Driven(view, task, loop, tables.pop("success"), found, numbers, tables))
    return tuple(points), tuple(dict.fromkeys(notes))


def belonging(
    candidates: Sequence[Score], prints: set[str], target: str, head: str
) -> tuple[list[Score], str]:
    """Return the one score, of each training seed, that belongs to a loop, or why there is none.

    Args:
        candidates: Scores of one proxy, of the same view and task.
        prints: Fingerprints of the encoders of the loop's runs.
        target: Of the loop's head.
        head: The loop's head.
    """
    if not candidates:
        return [], ""
    same = [s for s in candidates if {s.fingerprint} == prints]
    if not same:
        return [], f"of encoder {candidates[0].fingerprint}, the loop of {', '.join(sorted(prints))}"
    for wanted in ({"split": "test"}, {"target": target}, {"head": head}):
        same = [s for s in same if all(getattr(s, k) == v for k, v in wanted.items())] or same
    kinds = {(s.split, s.target, s.head) for s in same}
    if len(kinds) > 1:
        return [], f"{len(kinds)} scores of other splits, targets or heads"
    return same, ""


def _outcomes(runs: Sequence[SampleScores]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return success `[seeds, episodes]` over the episodes that all training seeds ran, in one order."""
    shared = sorted(set.intersection(*(set(run.items) for run in runs)))
    tables = [dict(zip(run.items, run.values, strict=True)) for run in runs]
    return np.array([[table[item] for item in shared] for table in tables])


def graded(mine: Sequence[Driven]) -> tuple[list[Driven], list[str]]:
    """Return the points of tasks on which success differs, and the other tasks; all if it differs on none."""
    rates: dict[str, set[float]] = defaultdict(set)
    for point in mine:
        rates[point.task].add(float(point.outcomes.mean()))
    even = [task for task, found in rates.items() if len(found) == 1]
    told = [p for p in mine if p.task not in even]
    return (told, even) if told else (list(mine), [])
