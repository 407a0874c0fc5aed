"""What the splits of a source are made of: samples of each class, robot type and collection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from lary_policy.data import ClipTable, PairTable, SourceSpec
from lary_policy.report import Composition, SplitSize

BLANK = "(blank)"


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
