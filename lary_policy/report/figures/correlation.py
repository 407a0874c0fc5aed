"""The offline score of a head against its success in closed loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.correlate import MIN_POINTS, Panel, Point, correlate
from lary_policy.report.figures.registry import Drawing, figure_kind
from lary_policy.report.figures.style import INK, Palette, faint_grid, house_style, sentences, svg
from lary_policy.scores import mode_label, target_label

_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_MANY = len(_MARKS)  # cells that marks tell apart
# Places of a label around its point, in points: the first that meets nothing drawn before is taken.
_PLACES = tuple(
    (x, y, side) for y in (6, -12, 18, -24, 30, -36, 42, -48) for x, side in ((6, "left"), (-6, "right"))
)


@figure_kind(
    "At a glance: probe score against success",
    order=0,
    needs=("closed_loop", "scores"),
    absent="No task has a probe score and a closed-loop score of two or more encoders yet: with one there is "
    "nothing to compare.",
)
def at_a_glance(bundle: ReportBundle, palette: Palette) -> Iterable[Drawing]:
    """Draw all cells into one figure: a line a cell, a colour an encoder."""
    panels = [p for p in correlate(bundle.scores)[0] if len(p.points) > 1][:_MANY]
    if panels:
        marks = "Each mark is an encoder (colours of the table); marks of one task and mode are joined."
        yield Drawing(
            "Does the probe score foretell success?",
            sentences(
                marks,
                "Upright lines: 95 % intervals of success. Those of a good proxy fall from left to right.",
            ),
            (joined(tuple(panels), palette, "glance"),),
        )


@figure_kind(
    "Probe score against success",
    order=10,
    needs=("closed_loop", "scores"),
    absent="No head has both a probe score and a closed-loop score.",
)
def against_success(bundle: ReportBundle, palette: Palette) -> Iterable[Drawing]:
    """Draw a figure for each task, mode and target; name the closed loops that have no probe score."""
    panels, unmatched = correlate(bundle.scores)
    for number, panel in enumerate(panels):
        heading = f"{panel.task}, {mode_label(panel.mode)}, {target_label(panel.target)}"
        yield Drawing(heading, _agreement(panel), (scatter(panel, palette, f"s{number}"),), panel.note)
    if unmatched:
        rows = [
            f"{u.score.encoder}, {u.score.task}, {mode_label(u.score.mode)}: {u.reason}." for u in unmatched
        ]
        yield Drawing("Not drawn", " ".join(rows), ())


def _agreement(panel: Panel) -> str:
    """Say how well the panel's order of encoders agrees, in numbers."""
    r, ends, perfect = panel.pearson_r, panel.pearson_ci95, "\N{MINUS SIGN}1 is perfect"
    if r is None:
        words = f"Pearson r: undefined ({perfect})"
    else:
        interval = f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else ""
        few = "" if ends else f"; no interval below {MIN_POINTS} points"
        words = f"Pearson r {r:.2f}{interval}".replace("-", "\N{MINUS SIGN}") + f" ({perfect}{few})"
    violation = "" if panel.mmrv is None else f"; MMRV {panel.mmrv:.3f} (0 is perfect)"
    named = " Named are the first and the last in either score." if len(panel.points) > _MANY else ""
    return f"{words}{violation}; {panel.agreeing} of {panel.pairs} pairs in the same order.{named}"


@lru_cache(maxsize=128)
def scatter(panel: Panel, palette: Palette, name: str) -> Markup:
    """Draw test MSE against closed-loop success with both 95 % intervals; `name` makes element ids unique."""
    with house_style():
        figure = Figure(figsize=(3.9, 2.9))
        axes = figure.add_subplot()
        for point in panel.points:
            colour = palette[point.probe.encoder]
            x, y, x_bars, y_bars = _place(point)
            axes.errorbar(x, y, xerr=x_bars, yerr=y_bars, fmt="o", ms=6, lw=1.3, color=colour)
        axes.set_ylim(-6, 106)
        axes.margins(x=0.22)
        _axes(axes)
        _label(figure, axes, panel.points, palette)
        return svg(figure, name)


@lru_cache(maxsize=32)
def joined(panels: tuple[Panel, ...], palette: Palette, name: str) -> Markup:
    """Draw the points of all panels, those of one joined, with a legend of the panels below."""
    with house_style():
        figure = Figure(figsize=(5.6, 3.0))
        axes = figure.add_subplot()
        for panel, mark in zip(panels, _MARKS, strict=False):
            points = sorted((_place(point)[:2] for point in panel.points), key=lambda p: p[0])
            label = f"{panel.task}, {mode_label(panel.mode)}, {target_label(panel.target)}"
            axes.plot(
                *zip(*points, strict=True), color=INK, lw=0.8, alpha=0.35, marker=mark, ms=5, label=label
            )
            for point in panel.points:
                x, y, _, bars = _place(point)
                axes.errorbar(x, y, yerr=bars, fmt=mark, ms=6.5, lw=1.1, color=palette[point.probe.encoder])
        axes.set_ylim(-6, 106)
        if max(p.probe.value for panel in panels for p in panel.points) > 0:
            axes.set_xlim(left=0)
        _axes(axes)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(-0.02, -0.17), ncols=1)
        return svg(figure, name)


def _place(point: Point) -> tuple[float, float, np.ndarray | None, np.ndarray | None]:
    """Return a point's place and the lengths of its bars `[2, 1]`, None where there is no interval."""
    x, y = point.probe.value, 100 * point.success.value
    probe, success = point.probe.ci95, point.success.ci95
    across = None if probe is None else np.maximum([[x - probe[0]], [probe[1] - x]], 0)
    up = None if success is None else np.maximum([[y - 100 * success[0]], [100 * success[1] - y]], 0)
    return x, y, across, up


def _axes(axes: Axes) -> None:
    axes.set_xlabel("test MSE of the head (lower is better)")
    axes.set_ylabel("success, %")
    faint_grid(axes)


def _label(figure: Figure, axes: Axes, points: Sequence[Point], palette: Palette) -> None:
    """Write each encoder's name beside its point so that no name covers another or a point."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    taken = [box for point in points for box in _drawn(axes, point)]
    for point in _named(points):
        encoder, chosen = point.probe.encoder, None
        for x, y, side in _PLACES:
            text = axes.annotate(
                encoder, _place(point)[:2], (x, y), textcoords="offset points", ha=side,
                color=palette[encoder], annotation_clip=False,
            )  # fmt: skip
            box = text.get_window_extent(renderer).padded(1)
            chosen = chosen or box
            if not any(box.overlaps(other) for other in taken):
                chosen = box
                break
            text.remove()
        else:
            _first_place(axes, point, palette)
        taken.append(chosen or box)


def _named(points: Sequence[Point]) -> Sequence[Point]:
    """Return the points to name: all, or of many the first and last in either score."""
    if len(points) <= _MANY:
        return points
    scores = [[(p.probe.value, i), (-p.success.value, i)] for i, p in enumerate(points)]
    ends = [end(row[n] for row in scores)[1] for n in (0, 1) for end in (min, max)]
    return [points[i] for i in dict.fromkeys(ends)]


def _drawn(axes: Axes, point: Point) -> Iterable[Bbox]:
    """Yield what a point and its bars cover, in the pixels of the figure."""
    x, y, across, up = _place(point)
    (left, right), (low, high) = (
        (0.0, 0.0) if bars is None else (float(bars[0][0]), float(bars[1][0])) for bars in (across, up)
    )
    ends = (((x, y), (x, y), 5), ((x - left, y), (x + right, y), 1), ((x, y - low), (x, y + high), 1))
    for start, end, room in ends:
        corners = axes.transData.transform([start, end])
        yield Bbox([corners.min(0) - room, corners.max(0) + room])


def _first_place(axes: Axes, point: Point, palette: Palette) -> Annotation:
    """Label a point that has no free place around it where the first one would be."""
    x, y, side = _PLACES[0]
    name = point.probe.encoder
    return axes.annotate(
        name, _place(point)[:2], (x, y), textcoords="offset points", ha=side, color=palette[name]
    )
