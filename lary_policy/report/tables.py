"""The tables of the page as plain data; every number on them comes from a score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lary_policy.report.compare import CEILING_HEAD, FLOOR_HEAD, overlap, rank
from lary_policy.report.paper import defects_of
from lary_policy.scores import Score, format_number, metric_info, mode_label, target_label

MAX_COLUMNS = 4  # more do not fit beside each other on the page


@dataclass(frozen=True)
class Number:
    """One cell of a table.

    Attributes:
        value: Value as text.
        interval: Interval as text.
        low: Left end of the interval bar, percent of its track.
        mid: Value on the track.
        high: Right end.
        mark: `best` (clear of all others), `lead` (best, but overlapping) or empty.
        n: Samples or episodes behind it.
        faults: Names of the reference's faults that it reproduces.
    """

    value: str
    interval: str
    low: float
    mid: float
    high: float
    mark: str
    n: int
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of a table: names at the left, numbers (None where not measured) at the right."""

    names: tuple[str, ...]
    numbers: tuple[Number | None, ...]
    encoder: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """One table with its heading and column names."""

    title: str
    columns: tuple[str, ...]
    encoders: tuple[str, ...]
    rows: tuple[Row, ...]


def _number(
    score: Score, peers: Sequence[Score], top: float, keys: Mapping[str, str] | None = None
) -> Number:
    """Format a score; `peers` are the scores it competes with, `top` is the end of the bar's track."""
    info = metric_info(score.metric)
    value, interval = format_number(score.value, score.ci95, percent=info.percent)
    low, mid, high = (
        100.0 * min(1.0, max(0.0, x / top)) for x in (score.ci95[0], score.value, score.ci95[1])
    )
    faults = () if keys is None else tuple(d.name for d in defects_of(score, keys.get(score.encoder)))
    return Number(value, interval, low, mid, high, _mark(score, peers), score.n, faults)


def _mark(score: Score, peers: Sequence[Score]) -> str:
    if len(peers) < 2 or metric_info(score.metric).higher_is_better is None:
        return ""
    order = rank(peers)
    if score.value != order[0].value:
        return ""
    return "lead" if any(overlap(score, s) for s in order if s is not score) else "best"


def probe_tables(scores: Sequence[Score], keys: Mapping[str, str] | None = None) -> tuple[Table, ...]:
    """Build one table for each embodiment, task and mode: metrics down, encoders across.

    Errors of single dimensions (`<metric>/dim/<label>`) would triple their length: the page lists them with
    all scores.

    Args:
        scores: All scores of the report.
        keys: The reference's name of each encoder that it has; None if no fault of its can be in the scores.
    """
    probes = [s for s in scores if s.stage != "rollout" and "/dim/" not in s.metric]
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for s in probes:
        groups.setdefault((s.embodiment, s.task, s.mode), []).append(s)
    many = len({s.embodiment for s in probes}) > 1
    return tuple(
        _probe_table(key, part, many, keys) for key, members in groups.items() for part in _narrow(members)
    )


def _narrow(members: Sequence[Score]) -> list[list[Score]]:
    """Divide scores of too many columns by protocol, then by head, split and seed as well."""
    parts = [list(members)]
    for fields in (("protocol",), ("protocol", "head", "split", "seed")):
        if all(len({_column(s) for s in part}) <= MAX_COLUMNS for part in parts):
            break
        divided: dict[tuple[str, ...], list[Score]] = {}
        for s in members:
            divided.setdefault(tuple(str(getattr(s, field)) for field in fields), []).append(s)
        parts = list(divided.values())
    return parts


def _probe_table(
    key: tuple[str, str, str], members: Sequence[Score], with_embodiment: bool, keys: Mapping[str, str] | None
) -> Table:
    columns = list(dict.fromkeys(_column(s) for s in members))
    titles = _column_titles(columns)
    lines = sorted(
        dict.fromkeys((s.target, s.metric) for s in members), key=lambda k: (k[0], metric_info(k[1]).order)
    )
    rows = []
    for target, metric in lines:
        line = {_column(s): s for s in members if (s.target, s.metric) == (target, metric)}
        top = max(s.ci95[1] for s in line.values()) or 1.0
        info = metric_info(metric)
        top = 1.0 if info.percent else top
        name = f"{info.label} ({info.unit})" if info.unit else info.label
        found = [line.get(c) for c in columns]
        numbers = tuple(
            None if s is None else _number(s, _rivals(s, line.values()), top, keys) for s in found
        )
        rows.append(Row((target_label(target), name), numbers, kind="main" if "/" not in metric else "part"))
    shared = [i for i in (4, 1, 2) if keys is not None and len({c[i] for c in columns}) == 1]
    title = ", ".join(
        [key[1], mode_label(key[2]), *([key[0]] if with_embodiment else []), *(columns[0][i] for i in shared)]
    )
    return Table(title, titles, tuple(c[0] for c in columns), tuple(rows))


def _rivals(score: Score, others: Iterable[Score]) -> list[Score]:
    """Return the scores on the same samples under the same protocol: others are no comparison."""
    return [s for s in others if (s.split, s.protocol) == (score.split, score.protocol)]


def _column(score: Score) -> tuple[str, ...]:
    return (score.encoder, score.head, score.split, f"seed {score.seed}", score.protocol)


def _column_titles(columns: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Name columns by the encoder and whatever else differs between them."""
    varying = [i for i in range(1, 5) if len({c[i] for c in columns}) > 1]
    return tuple(" · ".join([c[0], *(c[i] for i in varying)]) for c in columns)


def rollout_table(scores: Sequence[Score]) -> Table:
    """Build the table of closed-loop rates: by task and mode: expert, heads (best first), random head."""
    rollouts = [s for s in scores if s.stage == "rollout"]
    metrics = sorted({s.metric for s in rollouts}, key=lambda m: (metric_info(m).order, m))
    lines: dict[tuple[str, ...], dict[str, Score]] = {}
    for s in rollouts:
        key = (
            s.task,
            s.mode,
            s.target,
            s.embodiment,
            s.encoder,
            s.head,
            s.split,
            f"seed {s.seed}",
            s.protocol,
        )
        lines.setdefault(key, {})[s.metric] = s
    tasks = list(dict.fromkeys(k[0] for k in lines))
    modes = list(dict.fromkeys(k[1] for k in lines))

    def order(key: tuple[str, ...]) -> tuple[float, ...]:
        place = {CEILING_HEAD: 0.0, FLOOR_HEAD: 2.0}.get(key[5], 1.0)
        main = lines[key].get("success")
        return (tasks.index(key[0]), modes.index(key[1]), place, -(main.value if main else 0.0))

    extras = [i for i in (3, 6, 7, 8) if len({k[i] for k in lines}) > 1]
    rows = tuple(_rollout_row(key, lines, metrics, extras) for key in sorted(lines, key=order))
    titles = tuple(metric_info(m).label for m in metrics)
    return Table("Closed loop", titles, (), rows)


def _rollout_row(
    key: tuple[str, ...],
    lines: dict[tuple[str, ...], dict[str, Score]],
    metrics: Sequence[str],
    extras: Sequence[int],
) -> Row:
    """Build one line; heads compete within one task, mode, embodiment, split, seed and protocol."""
    own = lines[key]
    reference = {CEILING_HEAD: "ceiling", FLOOR_HEAD: "floor"}.get(key[5], "")
    rivals = [
        line
        for other, line in lines.items()
        if other[:2] == key[:2] and other[3] == key[3] and other[6:] == key[6:]
        if other[5] not in (CEILING_HEAD, FLOOR_HEAD)
    ]
    numbers = []
    for metric in metrics:
        peers = [line[metric] for line in rivals if metric in line] if not reference else []
        info = metric_info(metric)
        top = (
            1.0
            if info.percent
            else max(line[metric].ci95[1] for line in lines.values() if metric in line) or 1.0
        )
        numbers.append(_number(own[metric], peers, top) if metric in own else None)
    who = {"ceiling": "scripted expert", "floor": f"random head, {key[4]}"}.get(reference, key[4])
    names = (
        key[0],
        "any mode" if key[1] == "-" else key[1],
        " · ".join([who, *(key[i] for i in extras)]),
        key[2],
        key[5],
    )
    return Row(names, tuple(numbers), key[4], reference)
