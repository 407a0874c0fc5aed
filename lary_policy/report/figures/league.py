"""All proxies side by side: how well each foretells success, with both intervals, and who is told apart."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from markupsafe import Markup
from matplotlib.figure import Figure

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.figures.registry import Drawing, figure_kind
from lary_policy.report.figures.style import (
    INK,
    Palette,
    faint_grid,
    house_style,
    numbers_table,
    sentences,
    svg,
)
from lary_policy.report.league import POOLED, League, Standing, interval_words, leaders
from lary_policy.scores import CLAIM_CLUSTERS, join_words, list_proxies, metric_info, mode_label

_MOST_NOTES = 6  # of scores left out and views not run, on the page
_LEAST_PROXIES = 2  # one alone is the section `Probe score against success`


@figure_kind(
    "The league of proxies",
    order=5,
    needs=("closed_loop", "measured"),
    width="full",
    intro="Pearson's r between an offline score (higher is better, errors negated) and success.",
)
def proxies_side_by_side(bundle: ReportBundle, _: Palette) -> Iterable[Drawing]:
    """Draw a figure a loop: all proxies over all tasks, and each task's r as a small mark."""
    found = bundle.league
    for number, loop in enumerate(dict.fromkeys(s.loop for s in found.standings)):
        mine = [s for s in found.standings if s.loop == loop and s.readings]
        pooled = [s for s in mine if s.task == POOLED]
        if len(pooled) < _LEAST_PROXIES:
            continue
        yield Drawing(
            mode_label(loop).capitalize(),
            sentences(*_words(found, loop, pooled)),
            (_beside(forest(pooled, [s for s in mine if s.task != POOLED], f"l{number}"), pooled),),
            _doubts(pooled),
        )


def _beside(figure: Markup, pooled: Sequence[Standing]) -> Markup:
    """Return a figure and the table of its numbers, side by side where there is room."""
    return Markup('<div class="grid wide">{}{}</div>').format(figure, statistics_table(pooled))


def _words(found: League, loop: str, pooled: Sequence[Standing]) -> Iterable[str]:
    yield leaders(League(tuple(s for s in found.standings if s.loop == loop), found.duels))
    yield "Thick: 95 % over seeds and episodes; thin: over families of encoders; ticks: single tasks."
    bases = list(dict.fromkeys(_base(s) for s in pooled))
    yield f"{bases[0]}." if len(bases) == 1 else ""
    yield from _further(found, loop)
    others = {mode_label(s.loop) for s in found.standings if s.loop != loop}
    notes = [note for note in found.notes if note.partition(":")[0] not in others]
    yield from notes[:_MOST_NOTES]
    if len(notes) > _MOST_NOTES:
        yield f"{len(notes) - _MOST_NOTES} more notes are in league.json."
    for duel in found.duels:
        if duel.loop == loop and "cannot be told" not in duel.verdict:
            yield duel.verdict


def _doubts(pooled: Sequence[Standing]) -> str:
    """Return what cannot be told, the same of several proxies once."""
    few = [s for s in pooled if s.families < CLAIM_CLUSTERS and "among these" in s.verdict]
    said = [s.verdict for s in pooled if s not in few and "cannot be told" in s.verdict]
    chance = [list_proxies()[s.proxy].words for s in few if "from chance" in s.verdict]
    if chance:
        said.append(f"Not told from chance even among these points: {join_words(chance)}.")
    if few:
        families = max(s.families for s in few)
        said.append(f"Whether it holds for other encoders cannot be told from {families} families.")
    return " ".join(said)


def _base(s: Standing) -> str:
    """Return what a standing rests on."""
    controls = f", {s.controls} of controls" if s.controls else ""
    missing = f", {s.missing} points lack it" if s.missing else ""
    ties = f", {s.ties[0]} tied in it and {s.ties[1]} in success" if any(s.ties) else ""
    return f"{s.points} points of {s.families} families{controls}{missing}{ties}"


_COLUMNS = ("Pearson", "Spearman", "Kendall", "MMRV", "given size", "without a family")


def statistics_table(pooled: Sequence[Standing]) -> Markup:
    """Return every statistic of each proxy as a table, intervals over seeds and episodes below the numbers.

    `given size` is Pearson's r given the logarithm of the latent's numbers, `without a family` the smallest
    and largest r of the points that are left without one. What a proxy rests on stands below its name where
    that differs between proxies.
    """
    apart = len({_base(s) for s in pooled}) > 1
    rows = []
    for s in pooled:
        numbers: list[str | Markup] = []
        for name in ("pearson", "spearman", "kendall", "mmrv"):
            reading = s.readings[name]
            value, _, ends = interval_words(reading.value, reading.over_episodes).partition(" ")
            numbers.append(Markup('{} <span class="ci">{}</span>').format(value, ends) if ends else value)
        rest = sorted(s.without.values())
        numbers.append("-" if s.partial is None else f"{s.partial:.2f}")
        numbers.append(f"{rest[0]:.2f} to {rest[-1]:.2f}" if rest else "-")
        rows.append((list_proxies()[s.proxy].words, _base(s) if apart else "", numbers))
    return numbers_table("", _COLUMNS, rows)


def _further(found: League, loop: str) -> Iterable[str]:
    """Name what foretells other outcomes best, and what training seeds alone do."""
    best: dict[str, Standing] = {}
    for s in found.outcomes:
        if s.loop == loop and s.readings:
            best.setdefault(s.outcome, s)
    for outcome, s in best.items():
        r = s.readings["pearson"]
        words = f"{list_proxies()[s.proxy].words} (r {interval_words(r.value, r.over_episodes)})"
        yield f"Of {metric_info(outcome).label} most is told by {words}."
    moved = [one for one in found.spread if one["loop"] == loop and "seeds" in one]
    if moved:
        seeds, episodes = (statistics.median(one[name] for one in moved) for name in ("seeds", "episodes"))
        yield (
            f"Over training seeds success has a deviation of {seeds:.3f} (median of {len(moved)} points with "
            f"several), where its episodes leave an error of {episodes:.3f}."
        )


def forest(pooled: Sequence[Standing], single: Sequence[Standing], name: str) -> Markup:
    """Draw a row a proxy, the best on top; `name` makes element ids unique."""
    with house_style():
        figure = Figure(figsize=(5.2, 0.7 + 0.36 * len(pooled)))
        axes = figure.add_subplot()
        for row, standing in enumerate(reversed(pooled)):
            r = standing.readings["pearson"]
            for ends, width in ((r.over_families, 1.0), (r.over_episodes, 3.2)):
                if ends is not None:
                    axes.plot(ends, (row, row), color=INK, lw=width, solid_capstyle="butt", alpha=0.7)
            axes.plot(r.value, row, "o", ms=6, color=INK)
            of_tasks = [s.readings["pearson"].value for s in single if s.proxy == standing.proxy]
            axes.plot(of_tasks, [row] * len(of_tasks), "|", ms=9, color=INK, alpha=0.45)
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_yticks(range(len(pooled)), [list_proxies()[s.proxy].words for s in reversed(pooled)])
        axes.set_xlim(-1.03, 1.03)
        axes.set_ylim(-0.6, len(pooled) - 0.4)
        axes.set_xlabel("Pearson's r with success, all tasks")
        faint_grid(axes)
        return svg(figure, name)
