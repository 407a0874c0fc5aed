"""All proxies side by side: how well each foretells success, with both intervals, and who is told apart."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from markupsafe import Markup
from matplotlib.figure import Figure

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.figures.registry import Drawing, figure_kind
from lary_policy.report.figures.style import INK, Palette, faint_grid, house_style, sentences, svg
from lary_policy.report.league import POOLED, League, Standing, interval_words, leaders
from lary_policy.scores import list_proxies, metric_info, mode_label

_MOST_NOTES = 6  # of scores left out and views not run, on the page
_LEAST_PROXIES = 2  # one alone is the section `Probe score against success`


@figure_kind(
    "The league of proxies",
    order=5,
    needs=("closed_loop", "measured"),
    width="wide",
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
            (forest(pooled, [s for s in mine if s.task != POOLED], f"l{number}"),),
            " ".join(s.verdict for s in pooled if "cannot be told" in s.verdict),
        )


def _words(found: League, loop: str, pooled: Sequence[Standing]) -> Iterable[str]:
    yield leaders(League(tuple(s for s in found.standings if s.loop == loop), found.duels))
    yield "Thick: 95 % over seeds and episodes; thin: over families of encoders; ticks: single tasks."
    for s in pooled:
        kinds = ("pearson", "spearman", "kendall", "mmrv")
        numbers = ", ".join(
            f"{kind} {interval_words(s.readings[kind].value, s.readings[kind].over_episodes)}"
            for kind in kinds
        )
        missing = f", {s.missing} points lack it" if s.missing else ""
        ties = f", {s.ties[0]} tied in it and {s.ties[1]} in success" if any(s.ties) else ""
        width = "" if s.partial is None else f"; given the latent's size r {s.partial:.2f}"
        rest = sorted(s.without.values())
        without = f"; without one family r {rest[0]:.2f} to {rest[-1]:.2f}" if rest else ""
        controls = f", {s.controls} of controls" if s.controls else ""
        base = f"{s.points} points of {s.families} families{controls}"
        yield f"{list_proxies()[s.proxy].words}: {numbers} ({base}{missing}{ties}{width}{without})."
    yield from _further(found, loop)
    yield from found.notes[:_MOST_NOTES]
    if len(found.notes) > _MOST_NOTES:
        yield f"{len(found.notes) - _MOST_NOTES} more notes are in league.json."
    for duel in found.duels:
        if duel.loop == loop and "cannot be told" not in duel.verdict:
            yield duel.verdict


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
