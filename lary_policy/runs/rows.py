"""Where the rows of a split went: every row is used, or left out for a reason that is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from lary_policy.data import ClipTable, PairTable, SourceSpec
from lary_policy.errors import DatasetError
from lary_policy.report import Composition, SplitSize

REASONS = {
    "unreadable": "whose cells or files cannot be read",
    "undecodable": "whose images or clips do not decode",
    "unknown_class": "of a class that training lacks",
    "unlabelled": "without a class",
    "disturbed": "with a disturbance inside the chunk",
}


@dataclass(frozen=True)
class RowCount:
    """The rows of one split.

    Attributes:
        rows: That the files have.
        used: That are trained or reported on.
        left_out: How many are not, by the keys of `REASONS`.

    Raises:
        DatasetError: Some rows are neither used nor left out for a reason.
    """

    rows: int
    used: int
    left_out: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.used + sum(self.left_out.values()) != self.rows or set(self.left_out) - set(REASONS):
            raise DatasetError(
                expected=f"{self.rows} rows to be used or left out for a reason",
                got=f"{self.used} used, left out {dict(self.left_out)}",
                fix="Please report this as a fault of this package.",
            )

    def describe(self) -> str:
        """Return how many rows are missing and why; empty where none is."""
        reasons = [f"{count} {REASONS[name]}" for name, count in self.left_out.items() if count]
        return f"{self.used} of {self.rows} rows used; left out: {', '.join(reasons)}" if reasons else ""


def count_rows(table: PairTable | ClipTable, kept: int, used: int, **left_out: int) -> dict[str, Any]:
    """Return the counts of one split as plain data.

    Args:
        table: The split.
        kept: How many of its rows have latents.
        used: Rows that the head sees.
        **left_out: Rows among the kept ones that it does not, by the keys of `REASONS`.
    """
    counts = {"unreadable": len(table.quarantined), "undecodable": len(table) - kept, **left_out}
    return asdict(RowCount(len(table) + len(table.quarantined), used, counts))


def missing_rows(results: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each split of which rows are missing in finished probes, each once.

    Modes are named where their rows differ: classes lack what no primitive fits, actions what is disturbed.
    """
    found: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for result in results:
        for split, counts in result.get("rows", {}).items():
            place = (result["task"], result.get("protocol", "native"), split)
            modes = found.setdefault(place, {}).setdefault(RowCount(**counts).describe(), [])
            if result["mode"] not in modes:
                modes.append(result["mode"])
    for (task, protocol, split), lines in found.items():
        for said, modes in lines.items():
            of = f", {' and '.join(modes)}" if len(lines) > 1 else ""
            if said:
                yield f"{task}, protocol {protocol}, split {split}{of}: {said}."


BLANK = Composition.BLANK


class SplitTables(Protocol):
    """A source opened under one protocol, its tables read once."""

    protocol: str

    @property
    def name(self) -> str:
        """What scores call it: a task, or the key of a source."""
        ...

    @property
    def spec(self) -> SourceSpec:
        """What the source holds."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Every split that is used, each once."""
        ...

    def table(self, split: str) -> PairTable | ClipTable:
        """Return the rows of a split."""
        ...


def split_sizes(data: SplitTables) -> list[SplitSize]:
    """Return how much each split of a source holds."""
    spec, found = data.spec, []
    for split in data.splits:
        table = data.table(split)
        roles = {"train": spec.train_split == split, "select": spec.select_split == split}
        role = [name for name, fits in {**roles, "report": split in spec.report_splits}.items() if fits]
        found.append(
            SplitSize(
                data.name, data.protocol, split, ", ".join(role), len(table), len(set(_recordings(table))),
                len(set(_classes(table)) - {BLANK}),
            )
        )  # fmt: skip
    return found


def compositions(data: SplitTables) -> list[Composition]:
    """Return the counts of all that a source tells apart: classes, robots, collections of recordings."""
    tables = {split: data.table(split) for split in data.splits}
    of_kind = {"class": _classes, "robot": _robots, "collection": _collections}
    found = []
    for kind, names_of in of_kind.items():
        counts = {split: Counter(names_of(table)) for split, table in tables.items()}
        names = sorted({name for count in counts.values() for name in count})
        if len(names) > 1 or (kind == "class" and names):
            rows = tuple(tuple(counts[split][name] for split in tables) for name in names)
            found.append(Composition(data.name, data.protocol, kind, tuple(tables), tuple(names), rows))
    return found


def _classes(table: PairTable | ClipTable) -> Sequence[str]:
    return [label or BLANK for label in table.labels() or ()]


def _robots(table: PairTable | ClipTable) -> Sequence[str]:
    robots = table.robot_types() if isinstance(table, PairTable) else ()
    return [robot or BLANK for robot in robots] if any(robots) else []


def _recordings(table: PairTable | ClipTable) -> Sequence[str]:
    return table.recordings() if isinstance(table, ClipTable) else [row.episode for row in table.rows]


def _collections(table: PairTable | ClipTable) -> Sequence[str]:
    """Return the first folder of each row's recording: a task, a suite, or one of several datasets."""
    return [name.partition("/")[0] for name in _recordings(table) if "/" in name]
