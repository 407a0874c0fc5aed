"""Which encoder is best in each cell, and whether this run tells it apart from the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lary_policy.scores import Score, format_number, metric_info, mode_label, target_label

SIGNIFICANCE = 0.05  # of the paired test, as the intervals cover 95 %
FLOOR_HEAD, CEILING_HEAD = "random", "expert"
REFERENCE_HEADS = frozenset({FLOOR_HEAD, CEILING_HEAD})


def bounds(score: Score) -> tuple[float, float] | None:
    """Return the interval of a score, None where there were too few recordings to estimate one."""
    return score.ci95


def number_words(score: Score) -> tuple[str, str]:
    """Return value and interval as text; an interval that cannot be estimated is named as such."""
    percent = metric_info(score.metric).percent
    return format_number(score.value, bounds(score), percent=percent, no_interval=score.no_interval)


def score_text(score: Score) -> str:
    """Return `0.31 [0.29, 0.33]`, with percent or unit where the metric has one."""
    unit = metric_info(score.metric).unit
    return " ".join(filter(None, (*number_words(score), unit)))


def upper(score: Score) -> float:
    """Return the upper end of the interval, or the value where there is none."""
    return (bounds(score) or (score.value, score.value))[1]


def overlap(a: Score, b: Score) -> bool:
    """Tell whether two intervals share a point; one of too few recordings, or none, might share any."""
    first, second = (bounds(s) if s.supports_claims else None for s in (a, b))
    return first is None or second is None or (first[0] <= second[1] and second[0] <= first[1])


def mcnemar(first: Mapping[int, bool], second: Mapping[int, bool]) -> float:
    """Return the exact two-sided p-value that two heads succeed equally often on the same episodes.

    McNemar's test: only episodes that one of them alone solves tell them apart, and without a difference each
    of these is as likely to be either's (Psychometrika 12, 1947; exact by the binomial distribution).
    """
    only = [first[seed] for seed in first if first[seed] != second[seed]]
    rarer = min(sum(only), len(only) - sum(only))
    tail = sum(math.comb(len(only), k) for k in range(rarer + 1))
    return min(1.0, 2.0 * tail / 2.0 ** len(only))


@dataclass(frozen=True)
class Outcomes:
    """How each episode of a closed loop ended, so that loops on the same episodes can be compared one by one.

    Attributes:
        encoder: Registry name or `-`.
        head: Head description.
        task: Task name.
        mode: `subgoal` or `policy`.
        target: Target of the head.
        metric: `success` or `success_at_end`.
        seed: Of training.
        episodes: Seed of the initial state and outcome of each.
    """

    encoder: str
    head: str
    task: str
    mode: str
    target: str
    metric: str
    seed: int
    episodes: tuple[tuple[int, bool], ...]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What tells two scores apart: a paired test where both were run on the same episodes, else intervals.

    Attributes:
        outcomes: Outcome of each episode by its seed, by what tells closed loops apart.
    """

    outcomes: Mapping[tuple[str | int, ...], Mapping[int, bool]] = field(default_factory=dict)

    @classmethod
    def of(cls, outcomes: Iterable[Outcomes]) -> Evidence:
        """Take the outcomes of all closed loops."""
        return cls({_loop(one): dict(one.episodes) for one in outcomes})

    def paired(self, a: Score, b: Score) -> bool:
        """Tell whether both were measured on the same episodes, one by one."""
        first, second = self.outcomes.get(_loop(a)), self.outcomes.get(_loop(b))
        return bool(first) and bool(second) and set(first or ()) == set(second or ())

    def apart(self, a: Score, b: Score) -> bool:
        """Tell whether two scores differ by more than chance."""
        if self.paired(a, b):
            return mcnemar(self.outcomes[_loop(a)], self.outcomes[_loop(b)]) < SIGNIFICANCE
        return not overlap(a, b)


def _loop(one: Score | Outcomes) -> tuple[str | int, ...]:
    return (one.encoder, one.head, one.task, one.mode, one.target, one.metric, one.seed)


@dataclass(frozen=True)
class Cell:
    """Scores of one metric that differ only in the encoder, so that they can be compared.

    Attributes:
        protocol: `native` or `lary`.
        embodiment: Embodiment name.
        task: Task or dataset name.
        mode: Probe or rollout mode.
        target: `absolute`, `relative` or `class`.
        split: Split or seed range.
        seed: Training seed.
        head: Head description where one encoder has several heads, else empty.
        scores: The scores, best first (in given order when the metric has no direction).
        evidence: What tells them apart.
    """

    protocol: str
    embodiment: str
    task: str
    mode: str
    target: str
    split: str
    seed: int
    head: str
    scores: tuple[Score, ...]
    evidence: Evidence

    @property
    def best(self) -> Score:
        """The score that comes first."""
        return self.scores[0]

    def tied(self) -> tuple[Score, ...]:
        """Scores of exactly the best value, without the best itself."""
        return tuple(s for s in self.scores[1:] if s.value == self.best.value)

    def near(self) -> tuple[Score, ...]:
        """Scores that are not told apart from the best."""
        return tuple(s for s in self.scores[1:] if not self.evidence.apart(self.best, s))

    def far(self) -> tuple[Score, ...]:
        """Scores that are told apart from the best."""
        return tuple(s for s in self.scores[1:] if self.evidence.apart(self.best, s))

    def paired(self) -> bool:
        """Tell whether all were measured on the same episodes, one by one."""
        return all(self.evidence.paired(self.best, s) for s in self.scores[1:])


def cells(
    scores: Iterable[Score], stage: str, metric: str, evidence: Evidence | None = None
) -> tuple[Cell, ...]:
    """Group the scores of one stage and metric into comparable cells, in order of first appearance.

    Random heads and the scripted expert are floor and ceiling, not competitors, and are left out.
    """
    groups: dict[tuple[str, str, str, str, str, str, int], list[Score]] = {}
    for s in scores:
        if s.stage == stage and s.metric == metric and s.head not in REFERENCE_HEADS:
            key = (s.protocol, s.embodiment, s.task, s.mode, s.target, s.split, s.seed)
            groups.setdefault(key, []).append(s)
    found: list[Cell] = []
    for key, members in groups.items():
        names = [s.encoder for s in members]
        heads = list(dict.fromkeys(s.head for s in members)) if len(set(names)) < len(names) else [""]
        for head in heads:
            kept = [s for s in members if head in ("", s.head)]
            found.append(Cell(*key, head, rank(kept), evidence or Evidence()))
    return tuple(found)


def reference_of(scores: Sequence[Score], cell: Cell, head: str) -> Score | None:
    """Return the floor or ceiling of a cell: same task and mode, the best encoder's own if there is one."""
    found = [
        s
        for s in scores
        if (s.stage, s.metric, s.head) == ("rollout", "success", head)
        and (s.embodiment, s.task) == (cell.embodiment, cell.task)
        and s.mode in (cell.mode, "-", head)
    ]
    return max(found, key=lambda s: (s.encoder == cell.best.encoder, s.value)) if found else None


def rank(scores: Sequence[Score]) -> tuple[Score, ...]:
    """Sort scores of one metric best first; equal values keep their order."""
    higher = metric_info(scores[0].metric).higher_is_better
    if higher is None:
        return tuple(scores)
    return tuple(sorted(scores, key=lambda s: -s.value if higher else s.value))


def cell_label(cell: Cell, siblings: Sequence[Cell]) -> str:
    """Name a cell by task, target and mode, and by whatever else differs between its siblings."""
    targets = [] if cell.target == "class" else [target_label(cell.target)]
    parts = [cell.task, *targets, mode_label(cell.mode)]
    for name, words in _EXTRAS.items():
        if len({getattr(c, name) for c in siblings}) > 1 and getattr(cell, name) != "":
            parts.append(words.format(getattr(cell, name)))
    return ", ".join(parts)


_EXTRAS: dict[str, str] = {
    "embodiment": "embodiment {}",
    "head": "head {}",
    "split": "split {}",
    "seed": "training seed {}",
    "protocol": "protocol {}",
}
