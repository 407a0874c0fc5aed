"""The tables that LARYBench's paper prints, and which of its numbers a score of ours stands beside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lary_policy.report.compare import number_words
from lary_policy.report.paper.defects import Defect, defects_of
from lary_policy.report.parts import HeadInfo
from lary_policy.scores import Score

# The paper regresses absolute actions by the flattened MLP and classifies by the attentive probe.
COMPARED = {"mse": ("absolute", "mlp4096-flatten"), "top1": ("class", "attentive768x4")}


REGRESSION = frozenset({"calvin", "vlabench", "vlabench_15", "vlabench_30", "robocoin", "agibotbeta"})


@dataclass(frozen=True)
class PaperRow:
    """One line of a table.

    Attributes:
        model: As the paper calls it.
        reference_key: Name of the model in the reference's code.
        params_m: Parameters in millions, or None where the table does not say.
        values: One number a column.
    """

    model: str
    reference_key: str
    params_m: float | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class PaperTable:
    """One table.

    Attributes:
        name: `Table 1` to `Table 6`.
        title: What it holds.
        metric: `top1`, `mse`, or `ablation` (columns of several kinds).
        unit: `%` or empty.
        columns: Dataset keys and names of other columns.
        rows: Its lines.
        note: What a reader must know.
    """

    name: str
    title: str
    metric: str
    unit: str
    columns: tuple[str, ...]
    rows: tuple[PaperRow, ...]
    note: str

    def value(self, reference_key: str, column: str) -> float | None:
        """Return a number, or None where the table has none."""
        if column not in self.columns:
            return None
        place = self.columns.index(column)
        return next((row.values[place] for row in self.rows if row.reference_key == reference_key), None)


@lru_cache
def _file() -> Mapping[str, object]:
    return json.loads((Path(__file__).parent / "paper.json").read_text(encoding="utf-8"))


def paper_source() -> str:
    """Return where the numbers are printed."""
    return str(_file()["source"])


@lru_cache
def paper_tables() -> tuple[PaperTable, ...]:
    """Return tables 1 to 6 of the paper."""
    tables: Sequence[Mapping[str, object]] = _file()["tables"]  # type: ignore[assignment]
    return tuple(_table(dict(raw)) for raw in tables)


def paper_number(score: Score, reference_key: str | None) -> float | None:
    """Return the paper's number for what a score measures, in the score's unit; None if it prints none.

    It is the same head, target, dataset and model; rows of unseen tasks or robots are not in its tables. A
    few runs of LAPA-DINOv3 stand in its figure 4 only.
    """
    target, head = COMPARED.get(score.metric, ("", ""))
    if reference_key is None or (score.target, score.head) != (target, head) or score.split == "unseen":
        return None
    percent = score.metric == "top1"
    for table in paper_tables():
        fits = table.metric in (score.metric, "ablation") and percent == (score.task not in REGRESSION)
        value = table.value(reference_key, score.task) if fits else None
        if value is not None:
            return value / 100 if percent else value
    drawn = _figure_4().get((reference_key, score.task))
    return drawn if drawn is None or not percent else drawn / 100


@lru_cache
def _figure_4() -> dict[tuple[str, str], float]:
    figure: Mapping[str, Sequence[Mapping[str, Sequence[float]]]] = _file()["figure_4"]  # type: ignore[assignment]
    return {
        (str(row["reference_key"]), str(column)): float(value)
        for row in figure["rows"]
        for column, value in zip(figure["columns"], row["values"], strict=True)
    }


def paper_gap(reference_key: str) -> dict[str, tuple[float, float]]:
    """Return F1 of people and of robots for each verb of the paper's figure 7; empty for other models."""
    figure: Mapping[str, Sequence[object]] = _file()["figure_7"]  # type: ignore[assignment]
    if reference_key not in figure["reference_keys"]:
        return {}
    place = list(figure["reference_keys"]).index(reference_key)
    rows: Sequence[Mapping[str, Sequence[tuple[float, float]]]] = figure["rows"]  # type: ignore[assignment]
    return {
        str(row["verb"]): (row["human_robot_f1"][place][0], row["human_robot_f1"][place][1]) for row in rows
    }


def _table(raw: dict[str, object]) -> PaperTable:
    rows: Sequence[Mapping[str, object]] = raw.pop("rows")  # type: ignore[assignment]
    parsed = tuple(PaperRow(**{**row, "values": tuple(row["values"])}) for row in rows)  # type: ignore[arg-type]
    columns: tuple[str, ...] = tuple(raw.pop("columns"))  # type: ignore[arg-type]
    return PaperTable(**raw, columns=columns, rows=parsed)  # type: ignore[arg-type]


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
    drawn = [_table_side_by_side(table, comparable, keys) for table in paper_tables()]
    return tuple(one for one in drawn if one.measured)


def reproduced(scores: Sequence[Score], heads: Sequence[HeadInfo]) -> tuple[Defect, ...]:
    """Return every fault that a score reproduces, each once."""
    keys = reference_keys(heads)
    found = dict.fromkeys(d for s in scores for d in defects_of(s, keys.get(s.encoder)))
    return tuple(sorted(found, key=lambda defect: int(defect.name[1:])))


def reference_keys(heads: Sequence[HeadInfo]) -> dict[str, str]:
    """Return the reference's name of each encoder that it has."""
    return {h.encoder: h.reference_key for h in heads if h.reference_key}


def _table_side_by_side(table: PaperTable, scores: Sequence[Score], keys: Mapping[str, str]) -> SideBySide:
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
