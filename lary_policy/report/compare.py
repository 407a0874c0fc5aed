"""Which encoder is best in each cell, and whether this run tells it apart from the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lary_policy.scores import (
    CLAIM_CLUSTERS,
    SampleScores,
    Score,
    format_number,
    metric_info,
    mode_label,
    paired_difference,
    target_label,
)

SIGNIFICANCE = 0.05  # of the paired test, as the intervals cover 95 %
FLOOR_HEAD, CEILING_HEAD = "random", "expert"
REFERENCE_HEADS = frozenset({FLOOR_HEAD, CEILING_HEAD})
_CONTROLS = ("components", "noise")  # how the options of a view's label begin that make it a control


def family_of(view: str) -> str:
    """Return the family that a view's label names: its encoder's name up to the first `-` or `@`.

    `dinov2-small@84px,layer6` and `dinov2-small@random` are of one family: their scores are no independent
    evidence. `auto:` models are of the family that their own name says, own encoders one each. An encoder
    that declares another lineage has that, see `EncoderSpec.lineage` and `ReportBundle.families`.
    """
    name = view.partition("@")[0]
    if name.startswith("auto:"):
        name = name.removeprefix("auto:").rpartition("/")[2]
    return name if ":" in name else name.partition("-")[0]


def is_control(view: str) -> bool:
    """Tell from its label whether a view's latents were cut or disturbed on purpose, so is no encoder."""
    options = view.partition("@")[2].split(",")
    return any(option.startswith(_CONTROLS) for option in options)


def number_words(score: Score) -> tuple[str, str]:
    """Return value and interval as text; an interval that cannot be estimated is named as such."""
    percent = metric_info(score.metric).percent
    return format_number(score.value, score.ci95, percent=percent, no_interval=score.no_interval)


def overlap(a: Score, b: Score) -> bool:
    """Tell whether two intervals share a point; one of too few recordings, or none, might share any."""
    first, second = (s.ci95 if s.supports_claims else None for s in (a, b))
    return first is None or second is None or (first[0] <= second[1] and second[0] <= first[1])


@dataclass(frozen=True)
class Measured:
    """A score with the number of each sample or episode behind it.

    Attributes:
        score: Mean of the numbers.
        samples: One number a sample, or 1 and 0 for an episode that succeeded or not.
    """

    score: Score
    samples: SampleScores


def mcnemar(first: SampleScores, second: SampleScores) -> float:
    """Return the exact two-sided p-value that two heads succeed equally often on the same episodes.

    McNemar's test: only episodes that one of them alone solves tell them apart, and without a difference each
    of these is as likely to be either's (Psychometrika 12, 1947; exact by the binomial distribution).
    """
    other = dict(zip(second.items, second.values, strict=True))
    pairs = zip(first.items, first.values, strict=True)
    only = [value > other[item] for item, value in pairs if value != other[item]]
    rarer = min(sum(only), len(only) - sum(only))
    tail = sum(math.comb(len(only), k) for k in range(rarer + 1))
    return min(1.0, 2.0 * tail / 2.0 ** len(only))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What tells two scores apart: the same episodes or samples, where both are known; else their intervals.

    Attributes:
        samples: Numbers behind scores.
    """

    samples: Mapping[Score, SampleScores] = field(default_factory=dict)
    _known: dict[tuple[Score, Score], bool] = field(default_factory=dict)

    @classmethod
    def of(cls, measured: Iterable[Measured]) -> Evidence:
        """Take the numbers behind all scores that have some."""
        return cls({one.score: one.samples for one in measured})

    def paired(self, a: Score, b: Score) -> bool:
        """Tell whether both were measured on the same episodes or samples, one by one."""
        first, second = self.samples.get(a), self.samples.get(b)
        return first is not None and second is not None and set(first.items) == set(second.items)

    def apart(self, a: Score, b: Score) -> bool:
        """Tell whether two scores of one metric differ by more than chance."""
        if not self.paired(a, b):
            return not overlap(a, b)
        if (a, b) not in self._known:
            self._known[a, b] = _differ(self.samples[a], self.samples[b])
        return self._known[a, b]


def _differ(first: SampleScores, second: SampleScores) -> bool:
    """Tell whether two heads differ on the same samples: McNemar's test of outcomes, else a bootstrap."""
    if first.items == first.clusters and {*first.values, *second.values} <= {0.0, 1.0}:
        return mcnemar(first, second) < SIGNIFICANCE
    found = paired_difference(first, second)
    if found.ci95 is None or found.clusters < CLAIM_CLUSTERS:
        return False
    return not found.ci95[0] <= 0.0 <= found.ci95[1]


@dataclass(frozen=True)
class Comparison:
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
        """Tell whether all were measured on the same episodes or samples, one by one."""
        return all(self.evidence.paired(self.best, s) for s in self.scores[1:])


def cells(
    scores: Iterable[Score], stage: str, metric: str, evidence: Evidence | None = None
) -> tuple[Comparison, ...]:
    """Group the scores of one stage and metric into comparable cells, in order of first appearance.

    Random heads and the scripted expert are floor and ceiling, not competitors, and are left out.
    """
    groups: dict[tuple[str, str, str, str, str, str, int], list[Score]] = {}
    for s in scores:
        if s.stage == stage and s.metric == metric and s.head not in REFERENCE_HEADS:
            key = (s.protocol, s.embodiment, s.task, s.mode, s.target, s.split, s.seed)
            groups.setdefault(key, []).append(s)
    found: list[Comparison] = []
    for key, members in groups.items():
        names = [s.encoder for s in members]
        heads = list(dict.fromkeys(s.head for s in members)) if len(set(names)) < len(names) else [""]
        for head in heads:
            kept = [s for s in members if head in ("", s.head)]
            found.append(Comparison(*key, head, rank(kept), evidence or Evidence()))
    return tuple(found)


def reference_of(scores: Sequence[Score], cell: Comparison, head: str) -> Score | None:
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


def cell_label(cell: Comparison, siblings: Sequence[Comparison]) -> str:
    """Name a cell by task, target and mode, and by what else it takes to tell it from its siblings."""
    return ", ".join(filter(None, cell_words(cell, siblings)))


def cell_words(cell: Comparison, siblings: Sequence[Comparison]) -> tuple[str, str]:
    """Return task, target and mode of a cell, and what else it takes to tell it from its siblings."""
    targets = [] if cell.target == "class" else [target_label(cell.target)]
    told = ["task", "target", "mode"]
    extras = []
    for name, words in _EXTRAS.items():
        if _kinds(siblings, [*told, name]) > _kinds(siblings, told):
            told.append(name)
            extras += [words.format(getattr(cell, name))] if getattr(cell, name) != "" else []
    return ", ".join([cell.task, *targets, mode_label(cell.mode)]), ", ".join(extras)


def _kinds(cells: Sequence[Comparison], names: Sequence[str]) -> int:
    return len({tuple(getattr(c, name) for name in names) for c in cells})


_EXTRAS: dict[str, str] = {
    "embodiment": "embodiment {}",
    "head": "head {}",
    "protocol": "protocol {}",
    "split": "split {}",
    "seed": "training seed {}",
}
