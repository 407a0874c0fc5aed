"""Figures of probes on files: the long tail, people against robots, ablation curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator, StrMethodFormatter

from lary_policy.report.figures.probes import INK, STYLE, grid, svg
from lary_policy.report.parts import ClassTail
from lary_policy.scores import Score, metric_info

_MARKS = ("o", "s", "^", "D", "v")
_SMOOTHED = 15  # classes that the moving average of the long tail covers at most


def long_tail(members: Sequence[ClassTail], colours: Mapping[str, str], name: str) -> str:
    """Draw how often each class occurs, and its F1 with a moving average, most frequent class first."""
    first = members[0]
    order = np.argsort(-np.array(first.train), kind="stable")
    rank = np.arange(len(order))
    window = max(1, min(_SMOOTHED, len(order) // 5))
    with matplotlib.rc_context(STYLE):
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
            colour = colours[member.encoder]
            axes.scatter(at, f1, s=9, color=colour, alpha=0.45, linewidths=0)
            if len(f1) >= window:
                smooth = np.convolve(f1, np.ones(window) / window, mode="valid")
                axes.plot(
                    np.convolve(at, np.ones(window) / window, mode="valid"), smooth, color=colour, lw=1.6
                )
        axes.set(ylim=(-0.03, 1.03), xlabel="classes, most frequent first", ylabel="F1")
        grid(axes)
        return svg(figure, name)


def human_robot_gap(
    human: ClassTail, robot: ClassTail, paper: Mapping[str, tuple[float, float]], colour: str, name: str
) -> str:
    """Draw F1 of robots minus F1 of people for each verb that both have; open rings are the paper's."""
    people, robots = (_f1(tail) for tail in (human, robot))
    shared = sorted(set(people) & set(robots), key=lambda verb: robots[verb] - people[verb])
    with matplotlib.rc_context(STYLE):
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
        grid(axes)
        return svg(figure, name)


def curve(
    ours: Mapping[str, Sequence[Score]],
    positions: Mapping[str, float],
    paper: Mapping[str, Mapping[float, float]],
    colours: Mapping[str, str],
    label: str,
    name: str,
) -> str:
    """Draw a metric over stride, codebook size, ... with intervals; dashed lines are the paper's.

    Args:
        ours: Scores of each line.
        positions: Place on the horizontal axis of each score's task or encoder.
        paper: Numbers of the paper of each line, by place.
        colours: Colour of each line.
        label: Of the horizontal axis.
        name: Makes ids of elements unique.
    """
    info = metric_info(next(iter(ours.values()))[0].metric)
    scale = 100.0 if info.percent else 1.0
    drawn: list[str] = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.8))
        axes = figure.add_subplot()
        for line, scores in ours.items():
            points = sorted(((_position(s, positions), s) for s in scores), key=lambda point: point[0])
            at = [place for place, _ in points]
            value = scale * np.array([s.value for _, s in points])
            low, high = (scale * np.array([s.ci95[i] for _, s in points]) for i in (0, 1))
            bars = np.maximum([value - low, high - value], 0)
            colour = colours[line]
            mark = _MARKS[drawn.count(colour) % len(_MARKS)]  # lines of one encoder differ by their marks
            drawn.append(colour)
            axes.errorbar(at, value, yerr=bars, fmt=f"{mark}-", ms=4, lw=1.4, color=colour, label=line)
            for place, number in sorted(paper.get(line, {}).items()):
                axes.scatter(place, scale * number, s=24, marker=mark, facecolor="none", edgecolors=colour)
            printed = sorted(paper.get(line, {}).items())
            axes.plot([p for p, _ in printed], [scale * v for _, v in printed], ls="--", lw=1, color=colour)
        _ticks(axes, sorted({_position(s, positions) for scores in ours.values() for s in scores}))
        axes.set_xlabel(label)
        axes.set_ylabel(f"{info.label}{', %' if info.percent else ''}")
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(-0.16, -0.2), ncols=1)
        grid(axes)
        return svg(figure, name)


def _ticks(axes: Axes, places: Sequence[float]) -> None:
    """Mark the measured places; sizes that grow by factors are spread evenly."""
    if places[-1] >= 4 * places[0] > 0:
        axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())


def _position(score: Score, positions: Mapping[str, float]) -> float:
    return positions[score.task] if score.task in positions else positions[score.encoder]


def _f1(tail: ClassTail) -> dict[str, float]:
    return {n: f1 for n, f1, count in zip(tail.names, tail.f1, tail.test, strict=True) if count}
