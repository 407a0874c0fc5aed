"""The tables of the page as plain data; every number on them comes from a score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from lary_policy.report.compare import (
    CEILING_HEAD,
    FLOOR_HEAD,
    Evidence,
    cell_words,
    cells,
    number_words,
    rank,
    reference_of,
)
from lary_policy.report.correlate import Panel
from lary_policy.report.league import POOLED, League, interval_words
from lary_policy.report.paper import defects_of
from lary_policy.scores import Score, list_proxies, metric_info, mode_label, target_label

_HEADLINES = {"mse": "Test MSE (lower is better)", "top1": "Top-1 accuracy", "success": "Success"}
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
        mark: `best` (told apart from all others), `lead` (best, but not told apart) or empty.
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


@dataclass(frozen=True)
class Result:
    """One place of the first table: success in closed loop and the probe score of the same head."""

    success: Number | None
    probe: Number | None
    encoder: str


@dataclass(frozen=True)
class ResultTable:
    """The first table of the page: a line a task and mode, a column an encoder.

    Attributes:
        columns: Encoders (and heads where one has several), then the references.
        encoders: Encoder of each column, empty for a reference.
        rows: What each line is about, what else tells it from the others, and its results.
        words: What the numbers are.
    """

    columns: tuple[str, ...]
    encoders: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Result | None, ...]], ...]
    words: str


def _number(
    score: Score,
    peers: Sequence[Score],
    top: float,
    keys: Mapping[str, str] | None = None,
    evidence: Evidence | None = None,
) -> Number:
    """Format a score; `peers` are the scores it competes with, `top` is the end of the bar's track."""
    value, interval = number_words(score)
    low, high = score.ends
    low, mid, high = (100.0 * min(1.0, max(0.0, x / top)) for x in (low, score.value, high))
    faults = () if keys is None else tuple(d.name for d in defects_of(score, keys.get(score.encoder)))
    return Number(value, interval, low, mid, high, _mark(score, peers, evidence), score.n, faults)


def _mark(score: Score, peers: Sequence[Score], evidence: Evidence | None) -> str:
    if len(peers) < 2 or metric_info(score.metric).higher_is_better is None:
        return ""
    order = rank(peers)
    if score.value != order[0].value:
        return ""
    told = evidence or Evidence()
    return "best" if all(told.apart(score, s) for s in order if s is not score) else "lead"


def result_table(scores: Sequence[Score], panels: Sequence[Panel], evidence: Evidence) -> ResultTable:
    """Build the first table: closed loops with the probe scores of their heads, else the probes alone."""
    loops = cells(scores, "rollout", "success", evidence)
    found = loops or (
        *cells(scores, "probe", "mse", evidence),
        *cells(scores, "probe", "top1", evidence),
    )
    probes = {point.success: point.probe for panel in panels for point in panel.points}
    peers = {point.probe: [p.probe for p in panel.points] for panel in panels for point in panel.points}
    measured = {s.encoder for cell in found for s in cell.scores}
    encoders = tuple(dict.fromkeys(s.encoder for s in scores if s.encoder in measured))
    references = {CEILING_HEAD: "scripted expert", FLOOR_HEAD: "random head"} if loops else {}
    ends = {cell: {head: reference_of(scores, cell, head) for head in references} for cell in found}
    shown = [head for head in references if any(ends[cell][head] for cell in found)]

    def result(score: Score | None, members: Sequence[Score]) -> Result | None:
        if score is None:
            return None
        if score.stage == "probe":
            return Result(None, _number(score, members, 1.0, None, evidence), score.encoder)
        probe = probes.get(score)
        of_probe = None if probe is None else _number(probe, peers[probe], 1.0, None, evidence)
        return Result(_number(score, members, 1.0, None, evidence), of_probe, score.encoder)

    rows = []
    for cell in found:
        own = {s.encoder: s for s in cell.scores}
        line = [result(own.get(encoder), cell.scores) for encoder in encoders]
        rows.append((*cell_words(cell, found), (*line, *(result(ends[cell][head], ()) for head in shown))))
    titles = (*encoders, *(references[head] for head in shown))
    metrics = " and ".join(dict.fromkeys(_HEADLINES[cell.best.metric] for cell in found))
    words = "Success in closed loop; below it the test MSE of the same head" if loops else metrics
    return ResultTable(titles, (*encoders, *("" for _ in shown)), tuple(rows), words)


def probe_tables(
    scores: Sequence[Score], keys: Mapping[str, str] | None = None, evidence: Evidence | None = None
) -> tuple[Table, ...]:
    """Build one table for each embodiment, task and mode: metrics down, encoders across.

    Errors of single dimensions (`<metric>/dim/<label>`) would triple their length: the page lists them with
    all scores.

    Args:
        scores: All scores of the report.
        keys: The reference's name of each encoder that it has; None if no fault of its can be in the scores.
        evidence: What tells scores apart.
    """
    probes = [s for s in scores if s.stage != "rollout" and "/dim/" not in s.metric]
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for s in probes:
        groups.setdefault((s.embodiment, s.task, s.mode), []).append(s)
    many = len({s.embodiment for s in probes}) > 1
    return tuple(
        _probe_table(key, part, many, keys, evidence)
        for key, members in groups.items()
        for part in _narrow(members)
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
    key: tuple[str, str, str],
    members: Sequence[Score],
    with_embodiment: bool,
    keys: Mapping[str, str] | None,
    evidence: Evidence | None,
) -> Table:
    columns = list(dict.fromkeys(_column(s) for s in members))
    titles = _column_titles(columns)
    lines = sorted(
        dict.fromkeys((s.target, s.metric) for s in members), key=lambda k: (k[0], metric_info(k[1]).order)
    )
    rows = []
    for target, metric in lines:
        line = {_column(s): s for s in members if (s.target, s.metric) == (target, metric)}
        top = max(s.ends[1] for s in line.values()) or 1.0
        info = metric_info(metric)
        top = 1.0 if info.percent else top
        name = f"{info.label} ({info.unit})" if info.unit else info.label
        found = [line.get(c) for c in columns]
        numbers = tuple(
            None if s is None else _number(s, _rivals(s, line.values()), top, keys, evidence) for s in found
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


def rollout_table(scores: Sequence[Score], evidence: Evidence | None = None) -> Table:
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
    rows = tuple(_rollout_row(key, lines, metrics, extras, evidence) for key in sorted(lines, key=order))
    titles = tuple(metric_info(m).label for m in metrics)
    return Table("Closed loop", titles, (), rows)


def _rollout_row(
    key: tuple[str, ...],
    lines: dict[tuple[str, ...], dict[str, Score]],
    metrics: Sequence[str],
    extras: Sequence[int],
    evidence: Evidence | None,
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
            else max(line[metric].ends[1] for line in lines.values() if metric in line) or 1.0
        )
        numbers.append(_number(own[metric], peers, top, None, evidence) if metric in own else None)
    who = {"ceiling": "scripted expert", "floor": f"random head, {key[4]}"}.get(reference, key[4])
    names = (
        key[0],
        "any mode" if key[1] == "-" else key[1],
        " · ".join([who, *(key[i] for i in extras)]),
        key[2],
        key[5],
    )
    return Row(names, tuple(numbers), key[4], reference)


def league_table(found: League) -> str:
    """Return the pooled standings of each loop as a markdown table, best first; of two proxies at least.

    Pearson's r with success has its interval over seeds and episodes and, beside it, the one over encoder
    families; `single tasks` are the median and the range of r within one task.
    """
    blocks = []
    for loop in dict.fromkeys(s.loop for s in found.standings):
        mine = [s for s in found.standings if s.loop == loop and s.readings]
        pooled = [s for s in mine if s.task == POOLED]
        if len(pooled) < 2:  # one alone has no rivals
            continue
        tasks = {s.task for s in mine} - {POOLED}
        heads = ("r [seeds, episodes]", "over families", "Spearman", "MMRV", "single tasks", "points")
        lines = [[f"{mode_label(loop)}, {len(tasks)} tasks", *heads], ["---"] * (1 + len(heads))]
        for s in pooled:
            r, rank_r, mmrv = (s.readings[name] for name in ("pearson", "spearman", "mmrv"))
            alone = [o.readings["pearson"].value for o in mine if o.proxy == s.proxy and o.task != POOLED]
            wide = "-" if r.over_families is None else f"[{r.over_families[0]:.2f}, {r.over_families[1]:.2f}]"
            single = f"{median(alone):.2f}, {min(alone):.2f} to {max(alone):.2f}" if alone else "-"
            lines.append([
                list_proxies()[s.proxy].words, interval_words(r.value, r.over_episodes), wide,
                f"{rank_r.value:.2f}", f"{mmrv.value:.2f}", single,
                f"{s.points} of {s.families} families",
            ])  # fmt: skip
        blocks.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
    return "\n".join(blocks)
