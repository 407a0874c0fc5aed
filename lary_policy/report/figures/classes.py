"""F1 of single classes: along the long tail, and of people against robots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.figures.registry import Drawing, figure_kind
from lary_policy.report.figures.style import INK, Palette, faint_grid, house_style, sentences, svg
from lary_policy.report.paper import fault_names, paper_gap, reference_keys
from lary_policy.report.parts import ClassTail, Confusion

_SMOOTHED = 15  # classes that the moving average of the long tail covers at most


@figure_kind("The long tail", order=60, needs=("tails",), width="wide")
def long_tails(bundle: ReportBundle, palette: Palette) -> Iterable[Drawing]:
    """Draw the encoders of one dataset, protocol and head together."""
    groups: dict[tuple[Any, ...], list[ClassTail]] = {}
    for tail in bundle.tails:
        groups.setdefault((tail.task, tail.protocol, tail.head, tail.names, tail.train), []).append(tail)
    for number, (key, members) in enumerate(groups.items()):
        yield Drawing(
            f"Long tail: {key[0]}, {key[1]}, {key[2]}",
            sentences("Each dot is a class; the line is a moving average.", _faults(bundle, members)),
            (long_tail(tuple(members), palette, f"lt{number}"),),
        )


@figure_kind("People and robots", order=65, needs=("tails",))
def people_and_robots(bundle: ReportBundle, palette: Palette) -> Iterable[Drawing]:
    """Draw the gap for each head that was trained on both datasets of composite actions."""
    found = {(t.encoder, t.protocol, t.head, t.task): t for t in bundle.tails}
    keys = reference_keys(bundle.heads)
    for number, ((encoder, protocol, head, task), human) in enumerate(found.items()):
        robot = found.get((encoder, protocol, head, "robot_1st"))
        if task != "human_1st" or robot is None or not set(human.names) & set(robot.names):
            continue
        paper = paper_gap(keys.get(encoder, ""))
        yield Drawing(
            f"People and robots: {encoder}, {protocol}, {head}",
            sentences(
                "Verbs that both have.",
                "Rings: figure 7 of the paper." if paper else "",
                _faults(bundle, (human, robot)),
            ),
            (human_robot_gap(human, robot, paper, palette[encoder], f"gap{number}"),),
        )


def _faults(bundle: ReportBundle, tails: Iterable[ClassTail]) -> str:
    """Name the faults of the reference that the heads behind some tails reproduce."""
    wanted = {(t.encoder, t.task, t.protocol, t.head) for t in tails}
    scores = [s for s in bundle.scores if (s.encoder, s.task, s.protocol, s.head) in wanted]
    return fault_names(scores, reference_keys(bundle.heads))


@lru_cache(maxsize=64)
def long_tail(members: tuple[ClassTail, ...], palette: Palette, name: str) -> Markup:
    """Draw how often each class occurs, and its F1 with a moving average, most frequent class first."""
    first = members[0]
    order = np.argsort(-np.array(first.train), kind="stable")
    rank = np.arange(len(order))
    window = max(1, min(_SMOOTHED, len(order) // 5))
    with house_style():
        figure = Figure(figsize=(6.4, 3.4))
        counts, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
        counts.bar(rank, np.array(first.train)[order], color=INK, alpha=0.35, width=0.9)
        counts.set_yscale("log")
        counts.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        counts.yaxis.set_minor_formatter(NullFormatter())
        counts.set_ylabel("training samples")
        for member in members:
            seen = np.array(member.test)[order] > 0
            f1, at = np.array(member.f1)[order][seen], rank[seen]
            colour = palette[member.encoder]
            axes.scatter(at, f1, s=9, color=colour, alpha=0.45, linewidths=0)
            if len(f1) >= window:
                smooth = np.convolve(f1, np.ones(window) / window, mode="valid")
                axes.plot(
                    np.convolve(at, np.ones(window) / window, mode="valid"), smooth, color=colour, lw=1.6
                )
        axes.set(ylim=(-0.03, 1.03), xlabel="classes, most frequent first", ylabel="F1")
        faint_grid(axes)
        return svg(figure, name)


def human_robot_gap(
    human: ClassTail, robot: ClassTail, paper: Mapping[str, tuple[float, float]], colour: str, name: str
) -> Markup:
    """Draw F1 of robots minus F1 of people for each verb that both have; open rings are the paper's."""
    people, robots = (_f1(tail) for tail in (human, robot))
    shared = sorted(set(people) & set(robots), key=lambda verb: robots[verb] - people[verb])
    with house_style():
        figure = Figure(figsize=(4.6, 0.9 + 0.19 * len(shared)))
        axes = figure.add_subplot()
        gaps = [robots[verb] - people[verb] for verb in shared]
        axes.barh(range(len(shared)), gaps, color=colour, alpha=0.8, height=0.7)
        known = [(place, paper[verb]) for place, verb in enumerate(shared) if verb in paper]
        axes.scatter(
            [r - h for _, (h, r) in known], [p for p, _ in known], s=20, color="none", edgecolors=INK
        )
        axes.set_yticks(range(len(shared)), shared)
        axes.set_ylim(-0.7, len(shared) - 0.3)
        axes.axvline(0, color=INK, lw=0.7)
        axes.set_xlabel("F1 of robots minus F1 of people")
        faint_grid(axes)
        return svg(figure, name)


def _f1(tail: ClassTail) -> dict[str, float]:
    return {n: f1 for n, f1, count in zip(tail.names, tail.f1, tail.test, strict=True) if count}


_ANNOTATED = 12  # classes; more numbers than that cannot be read in the squares


@figure_kind(
    "Confusion of classes",
    order=100,
    needs=("confusions",),
    intro="Depth of colour is the share of a true class (row); an empty row has no test sample.",
    absent="No probe of classes was run.",
)
def confusions(bundle: ReportBundle, palette: Palette) -> Iterable[Drawing]:
    """Draw a matrix for each head of classes."""
    for number, one in enumerate(bundle.confusions):
        yield Drawing(
            f"{one.task}, {one.encoder}", "", (confusion(one, palette.of(one.encoder), f"c{number}"),)
        )


@lru_cache(maxsize=128)
def confusion(matrix: Confusion, colour: str, name: str) -> Markup:
    """Draw a confusion matrix: shares of each true class as depth of colour, counts as numbers if few."""
    counts = np.array(matrix.counts, dtype=float)
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    classes = len(matrix.labels)
    size = 2.1 + 0.21 * classes
    with house_style():
        figure = Figure(figsize=(size, size))
        axes = figure.add_subplot()
        ramp = LinearSegmentedColormap.from_list("ramp", [f"{colour}00", f"{colour}ff"])
        cells = np.ma.masked_equal(share, 0)
        axes.pcolormesh(cells, cmap=ramp, vmin=0, vmax=1, linewidth=0)
        if classes <= _ANNOTATED:
            for i, j in zip(*np.nonzero(counts), strict=True):
                ink = "#ffffff" if share[i, j] > 0.75 else INK
                axes.text(
                    j + 0.5, i + 0.5, f"{int(counts[i, j])}", ha="center", va="center", color=ink, size=8
                )
        centres = np.arange(classes) + 0.5
        axes.set_xticks(centres, matrix.labels, rotation=90, size=7.5)
        axes.set_yticks(centres, matrix.labels, size=7.5)
        axes.tick_params(length=0)
        axes.add_patch(Rectangle((0, 0), classes, classes, fill=False, lw=0.7, ec=INK, clip_on=False))
        axes.spines[:].set_visible(False)
        axes.set(xlim=(0, classes), ylim=(classes, 0), aspect="equal", xlabel="predicted", ylabel="true")
        return svg(figure, name)
