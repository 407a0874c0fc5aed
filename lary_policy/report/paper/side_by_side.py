"""The paper's tables in their own layout, with our numbers in the same cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lary_policy.report.compare import number_words
from lary_policy.report.paper.defects import Defect, defects_of
from lary_policy.report.paper.tables import PaperTable, paper_number, paper_tables
from lary_policy.report.parts import HeadInfo
from lary_policy.scores import Score


@dataclass(frozen=True)
class Ours:
    """One number of ours in a cell.

    Attributes:
        protocol: `native` or `lary`.
        value: As text.
        interval: As text.
        split: Where it was measured.
        seed: Of training.
        defects: Names of the faults that it reproduces.
    """

    protocol: str
    value: str
    interval: str
    split: str
    seed: int
    defects: tuple[str, ...]


@dataclass(frozen=True)
class PaperCell:
    """What the paper prints, and ours."""

    paper: str
    ours: tuple[Ours, ...]


@dataclass(frozen=True)
class SideBySide:
    """One table of the paper with ours.

    Attributes:
        table: The paper's.
        lines: Model, encoder of ours (or empty) and cells.
        measured: Cells with a number of ours.
    """

    table: PaperTable
    lines: tuple[tuple[str, str, tuple[PaperCell, ...]], ...]
    measured: int


def side_by_side(scores: Sequence[Score], heads: Sequence[HeadInfo]) -> tuple[SideBySide, ...]:
    """Return the tables of the paper in which at least one cell has a number of ours."""
    keys = reference_keys(heads)
    comparable = [s for s in scores if paper_number(s, keys.get(s.encoder)) is not None]
    drawn = [_table(table, comparable, keys) for table in paper_tables()]
    return tuple(one for one in drawn if one.measured)


def reproduced(scores: Sequence[Score], heads: Sequence[HeadInfo]) -> tuple[Defect, ...]:
    """Return every fault that a score reproduces, each once."""
    keys = reference_keys(heads)
    found = dict.fromkeys(d for s in scores for d in defects_of(s, keys.get(s.encoder)))
    return tuple(sorted(found, key=lambda defect: int(defect.name[1:])))


def reference_keys(heads: Sequence[HeadInfo]) -> dict[str, str]:
    """Return the reference's name of each encoder that it has."""
    return {h.encoder: h.reference_key for h in heads if h.reference_key}


def _table(table: PaperTable, scores: Sequence[Score], keys: Mapping[str, str]) -> SideBySide:
    names = {key: encoder for encoder, key in keys.items()}
    lines, measured = [], 0
    for row in table.rows:
        cells = []
        for column, value in zip(table.columns, row.values, strict=True):
            found = [
                s
                for s in scores
                if s.task == column and keys[s.encoder] == row.reference_key and _fits(table, s)
            ]
            cells.append(PaperCell(_printed(table, value), tuple(_ours(s, keys[s.encoder]) for s in found)))
            measured += bool(found)
        lines.append((row.model, names.get(row.reference_key, ""), tuple(cells)))
    return SideBySide(table, tuple(lines), measured)


def _printed(table: PaperTable, value: float) -> str:
    return f"{value:g}" if table.metric == "ablation" else f"{value:.2f}"


def _fits(table: PaperTable, score: Score) -> bool:
    return table.metric in (score.metric, "ablation")


def _ours(score: Score, key: str) -> Ours:
    value, interval = number_words(score)
    names = tuple(d.name for d in defects_of(score, key))
    return Ours(score.protocol, value, interval, score.split, score.seed, names)
