"""Which offline score foretells success? All proxies side by side, on the same views, tasks and episodes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lary_policy.report.compare import is_control
from lary_policy.report.driven import OUTCOMES, Driven, graded
from lary_policy.scores import (
    CLAIM_CLUSTERS,
    STATISTICS,
    Points,
    Proxy,
    Reading,
    difference,
    join_words,
    list_proxies,
    metric_info,
    mode_label,
    partial_correlation,
    readings,
    without_each,
)

LEAST_POINTS = 5  # below this a correlation is decided by a single point
POOLED = "all tasks"
_NAMED = 3  # views that lack the same tasks named one by one


@dataclass(frozen=True)
class Standing:
    """How well one proxy foretells success in one loop, on one task or all.

    Attributes:
        proxy: Name of the proxy.
        loop: Mode of the loop.
        task: The task, or `POOLED`: both sides centred per task.
        points: Views on tasks behind it.
        missing: Points that lack the proxy and were left out.
        families: Families of encoders among them; one of which only controls are there does not count.
        ties: Points that share their offline score, and their success, with another one of their task.
        readings: Statistics by name, higher proxies being better; empty where nothing can be computed.
        partial: Pearson's r given the logarithm of the latent's numbers, or None.
        without: Pearson's r without each family.
        verdict: What it allows to conclude, in words.
        controls: Points of controls among them, see `is_control`.
        outcome: What it foretells, one of `OUTCOMES`.
    """

    proxy: str
    loop: str
    task: str
    points: int
    missing: int
    families: int
    ties: tuple[int, int]
    readings: Mapping[str, Reading]
    partial: float | None
    without: Mapping[str, float]
    verdict: str
    controls: int = 0
    outcome: str = "success"


@dataclass(frozen=True)
class Duel:
    """By how much one proxy's Pearson r with success exceeds another's, on the points that have both."""

    loop: str
    first: str
    second: str
    points: int
    reading: Reading
    verdict: str


@dataclass(frozen=True)
class League:
    """All standings and duels, and what was left out.

    Attributes:
        standings: Pooled ones first, best first within each loop.
        duels: Pairs of proxies in pooled points.
        notes: Closed loops and scores that do not belong together, by name.
        outcomes: Pooled standings for the other `OUTCOMES`, Pearson and Spearman only.
        spread: Of each view on a task in a loop how far success moves, see `Driven.spread`.
    """

    standings: tuple[Standing, ...]
    duels: tuple[Duel, ...]
    notes: tuple[str, ...] = field(default=())
    outcomes: tuple[Standing, ...] = ()
    spread: tuple[Mapping[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""

        def plain(one: Reading) -> dict[str, Any]:
            return {"value": one.value, "families": one.over_families, "episodes": one.over_episodes}

        def rows(some: Sequence[Standing]) -> list[dict[str, Any]]:
            return [{**vars(s), "readings": {k: plain(r) for k, r in s.readings.items()}} for s in some]

        return {
            "standings": rows(self.standings),
            "duels": [{**vars(d), "reading": plain(d.reading)} for d in self.duels],
            "notes": list(self.notes),
            "outcomes": rows(self.outcomes),
            "spread": [dict(one) for one in self.spread],
        }


def league(points: Sequence[Driven], notes: Sequence[str] = ()) -> League:
    """Compare all proxies that any point has.

    A task on which all views succeed equally often tells none from another: it has standings of its own,
    which say so, and is left out, by name, where tasks are taken together. There it would add views whose
    scores differ and whose success does not, and so pull every r towards 0.

    Args:
        points: See `driven`.
        notes: What was left out already.
    """
    standings, duels, further, absent = [], [], [], list(notes)
    for loop in dict.fromkeys(p.loop for p in points):
        mine = [p for p in points if p.loop == loop]
        told, even = graded(mine)
        absent += _not_run(loop, mine)
        if even:
            absent.append(
                f"{mode_label(loop)}: success is the same for all views on {join_words(even)}: left out "
                "where tasks are taken together."
            )
        names = [n for n in list_proxies() if any(n in p.proxies for p in mine)]
        pooled = [_standing(list_proxies()[n], loop, POOLED, told) for n in names]
        standings += sorted(pooled, key=lambda s: -s.readings["pearson"].value if s.readings else 9.0)
        for task in dict.fromkeys(p.task for p in mine):
            some = [p for p in mine if p.task == task]
            standings += [_standing(list_proxies()[n], loop, task, some) for n in names]
        duels += [duel for pair in itertools.combinations(names, 2) if (duel := _duel(loop, told, *pair))]
        for outcome in OUTCOMES[1:]:
            known, _ = graded([replace(p, outcomes=p.others[outcome]) for p in mine if outcome in p.others])
            ranked = [_standing(list_proxies()[n], loop, POOLED, known, outcome) for n in names if known]
            further += sorted(ranked, key=lambda s: -s.readings["pearson"].value if s.readings else 9.0)
    spread = [
        {"view": p.view, "task": p.task, "loop": p.loop, "training_seeds": len(p.outcomes), **p.spread()}
        for p in points
    ]
    return League(tuple(standings), tuple(duels), tuple(absent), tuple(further), tuple(spread))


def _not_run(loop: str, mine: Sequence[Driven]) -> list[str]:
    """Count and name the views that did not run on all tasks that others did."""
    there = {(p.view, p.task) for p in mine}
    views, tasks = (dict.fromkeys(part) for part in zip(*there, strict=True))
    lacking = {v: [t for t in tasks if (v, t) not in there] for v in sorted(views)}
    where = {v: join_words(sorted(some)) for v, some in lacking.items() if some}
    who = {place: [v for v in where if where[v] == place] for place in dict.fromkeys(where.values())}
    some = {place: join_words(w) if len(w) <= _NAMED else f"{len(w)} views" for place, w in who.items()}
    named, count = [f"{w} on {place}" for place, w in some.items()], sum(map(len, lacking.values()))
    said = f"{mode_label(loop)}: {count} of {len(views) * len(tasks)} views on tasks were not run"
    return [f"{said}: {'; '.join(named)}."] if count else []


def _points(proxy: Proxy, some: Sequence[Driven]) -> Points:
    shortest = {t: min(p.outcomes.shape[1] for p in some if p.task == t) for t in {p.task for p in some}}
    return Points(
        np.array([proxy.sign * p.proxies[proxy.name] for p in some]),
        tuple(p.outcomes[:, : shortest[p.task]] for p in some),
        tuple(p.family for p in some),
        tuple(p.task for p in some),
    )


def _families(some: Sequence[Driven]) -> int:
    return len({p.family for p in some if not is_control(p.view)})


def _standing(
    proxy: Proxy, loop: str, task: str, mine: Sequence[Driven], outcome: str = "success"
) -> Standing:
    some = [p for p in mine if proxy.name in p.proxies]
    known, families = _points(proxy, some), _families(some)
    why = known.why_none()
    kinds = tuple(STATISTICS) if outcome == "success" else ("pearson", "spearman")
    found = {} if why else readings(known, kinds=kinds)
    numbers = [p.numbers for p in some]
    given = None if None in numbers or why else np.log(np.array(numbers, dtype=np.float64))
    foretold = "success" if outcome == "success" else metric_info(outcome).label
    return Standing(
        proxy.name, loop, task, len(some), len(mine) - len(some), families,
        (_tied(known.values, known.tasks), _tied(known.success, known.tasks)), found,
        None if given is None else partial_correlation(known, given),
        {} if why else without_each(known),
        _verdict(proxy, loop, len(some), families, why, found.get("pearson")).replace("success", foretold),
        sum(is_control(p.view) for p in some), outcome,
    )  # fmt: skip


def _tied(values: np.ndarray[Any, Any], tasks: Sequence[str]) -> int:
    seen = list(zip(values.round(12).tolist(), tasks, strict=True))
    return sum(seen.count(one) > 1 for one in seen)


def _duel(loop: str, mine: Sequence[Driven], first: str, second: str) -> Duel | None:
    both = [p for p in mine if first in p.proxies and second in p.proxies]
    sides = [_points(list_proxies()[name], both) for name in (first, second)]
    if any(side.why_none() for side in sides):
        return None
    reading = difference(*sides)
    families = _families(both)
    words = [list_proxies()[n].words for n in ((first, second) if reading.value >= 0 else (second, first))]
    ends = reading.over_families if families >= CLAIM_CLUSTERS else None
    told = ends is not None and not ends[0] <= 0 <= ends[1] and len(both) >= LEAST_POINTS
    apart = f"r is {abs(reading.value):.2f} higher"
    if told:
        verdict = f"{words[0]} foretells better than {words[1]}: {apart}, whichever families are drawn."
    else:
        verdict = f"Which of {words[0]} and {words[1]} foretells better cannot be told ({apart} here)."
    return Duel(loop, first, second, len(both), reading, verdict)


def _verdict(proxy: Proxy, loop: str, n: int, families: int, why: str, r: Reading | None) -> str:
    """Say what a standing allows to conclude."""
    who = f"{proxy.words}, {mode_label(loop)}"
    if r is None or n < LEAST_POINTS:
        return f"{who}: cannot be told: {why or f'{n} points'}."
    here = interval_words(r.value, r.over_episodes)
    if families < CLAIM_CLUSTERS:
        sure = r.over_episodes is not None and not r.over_episodes[0] <= 0 <= r.over_episodes[1]
        within = (
            ("foretells success" if r.value > 0 else "misleads") if sure else "cannot be told from chance"
        )
        return (
            f"{who}: among these {n} points {within}, r {here} over seeds and episodes; whether that holds "
            f"for other encoders cannot be told from {families} families."
        )
    ends = r.over_families
    if ends is None or ends[0] <= 0 <= ends[1]:
        return f"{who}: cannot be told: r {interval_words(r.value, ends)} over {families} families."
    effect = "foretells success" if r.value > 0 else "misleads"
    return f"{who}: {effect}, r {interval_words(r.value, ends)} over {families} families, {n} points."


def interval_words(value: float, ends: tuple[float, float] | None) -> str:
    """Return `.75 [.60, .88]`, or the value alone."""
    return f"{value:.2f}" + (f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else "")


def leaders(found: League) -> str:
    """Return the first sentence about a league: the best proxy of each loop and whether it is told apart."""
    best: dict[str, Standing] = {}
    for standing in found.standings:
        if standing.task == POOLED and standing.readings:
            best.setdefault(standing.loop, standing)
    if not best:
        return "No proxy can be compared yet: there are too few points, or nothing varies."
    parts = []
    for loop, first in best.items():
        rivals = [d for d in found.duels if d.loop == loop and first.proxy in (d.first, d.second)]
        told = [d for d in rivals if "cannot be told" not in d.verdict]
        beaten = "told apart from none of the others" if not told else f"told apart from {len(told)}"
        words = list_proxies()[first.proxy].words
        parts.append(
            f"{words} leads in {mode_label(loop)} (r {first.readings['pearson'].value:.2f}, {beaten})"
        )
    return f"{join_words(parts)}."
