"""Which encoder is best in each cell, and whether the intervals separate it from the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lary_policy.scores import Score, metric_info, mode_label, target_label

FLOOR_HEAD, CEILING_HEAD = "random", "expert"
REFERENCE_HEADS = frozenset({FLOOR_HEAD, CEILING_HEAD})


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

    @property
    def best(self) -> Score:
        """The score that comes first."""
        return self.scores[0]

    def tied(self) -> tuple[Score, ...]:
        """Scores of exactly the best value, without the best itself."""
        return tuple(s for s in self.scores[1:] if s.value == self.best.value)

    def overlapping(self) -> tuple[Score, ...]:
        """Scores whose interval overlaps with that of the best."""
        return tuple(s for s in self.scores[1:] if overlap(self.best, s))

    def separated(self) -> tuple[Score, ...]:
        """Scores whose interval does not overlap with that of the best."""
        return tuple(s for s in self.scores[1:] if not overlap(self.best, s))


def overlap(a: Score, b: Score) -> bool:
    """Tell whether two intervals share a point."""
    return a.ci95[0] <= b.ci95[1] and b.ci95[0] <= a.ci95[1]


def cells(scores: Iterable[Score], stage: str, metric: str) -> tuple[Cell, ...]:
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
            found.append(Cell(*key, head, rank(kept)))
    return tuple(found)


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
