"""Figures as inline SVG: transparent, coloured by encoder, text in the colour of the page around them."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lary_policy.report.correlate import Panel
from lary_policy.report.parts import Confusion, Trajectory

# Okabe-Ito (colour-blind safe), darkened or lightened to read on white and on near-black alike.
PALETTE = ("#0b7fc4", "#d9730d", "#1a9e77", "#b0569a", "#a8860b", "#5b6fd6", "#c4473a", "#4a8f9e")
INK = "#010203"  # stands for the text colour of the page; replaced by currentColor in the SVG
MAX_ANNOTATED_CLASSES = 12  # more numbers than that cannot be read in the squares
_PX_PER_POINT = 96 / 72  # CSS pixels and points of an inch

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lary",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.titlesize": 9.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


def encoder_colours(encoders: Sequence[str]) -> dict[str, str]:
    """Give each encoder a colour by its place in the list; the list may be longer than the palette."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(encoders)}


def scatter(panel: Panel, colours: Mapping[str, str], name: str) -> str:
    """Draw test MSE against closed-loop success with both 95 % intervals; `name` makes element ids unique."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.9, 2.9))
        axes = figure.add_subplot()
        for point in panel.points:
            x, y = point.probe.value, 100 * point.success.value
            bars = [[x - point.probe.ci95[0]], [point.probe.ci95[1] - x]]
            rates = [[y - 100 * point.success.ci95[0]], [100 * point.success.ci95[1] - y]]
            axes.errorbar(
                x,
                y,
                xerr=np.maximum(bars, 0),
                yerr=np.maximum(rates, 0),
                fmt="o",
                ms=6,
                lw=1.3,
                color=colours[point.probe.encoder],
            )
            axes.annotate(
                point.probe.encoder,
                (x, y),
                (5, 6),
                textcoords="offset points",
                color=colours[point.probe.encoder],
            )
        axes.set_ylim(-6, 106)
        axes.margins(x=0.22)
        axes.set_xlabel("test MSE of the head (lower is better)")
        axes.set_ylabel("success, %")
        grid(axes)
        return svg(figure, name)


def trajectory(members: Sequence[Trajectory], dimension: int, colours: Mapping[str, str], name: str) -> str:
    """Draw one action dimension of one episode: true in the text colour, predictions in the encoders'."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.9, 1.75))
        axes = figure.add_subplot()
        first = members[0]
        steps = np.arange(len(first.true))
        axes.plot(steps, [row[dimension] for row in first.true], color=INK, lw=2.4, alpha=0.55)
        for member in members:
            values = [row[dimension] for row in member.predicted]
            axes.plot(steps, values, color=colours[member.encoder], lw=1.1)
        unit = f" ({first.units[dimension]})" if first.units and first.units[dimension] else ""
        axes.set_title(f"{first.labels[dimension]}{unit}", loc="left")
        axes.margins(x=0.01)
        grid(axes)
        figure.subplots_adjust(left=0.19, right=0.985, bottom=0.14, top=0.86)  # equal axes side by side
        return svg(figure, name, crop=False)


def confusion(matrix: Confusion, colour: str, name: str) -> str:
    """Draw a confusion matrix: shares of each true class as depth of colour, counts as numbers if few."""
    counts = np.array(matrix.counts, dtype=float)
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    classes = len(matrix.labels)
    size = 2.1 + 0.21 * classes
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(size, size))
        axes = figure.add_subplot()
        ramp = LinearSegmentedColormap.from_list("ramp", [f"{colour}00", f"{colour}ff"])
        cells = np.ma.masked_equal(share, 0)
        axes.pcolormesh(cells, cmap=ramp, vmin=0, vmax=1, linewidth=0)
        if classes <= MAX_ANNOTATED_CLASSES:
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


def grid(axes: Axes) -> None:
    """Put a faint grid behind the data."""
    axes.grid(color=INK, alpha=0.12, lw=0.6)
    axes.set_axisbelow(True)


def svg(figure: Figure, name: str, *, crop: bool = True) -> str:
    """Serialise without XML header, addresses and fixed size, with ids that no other figure uses."""
    buffer = io.StringIO()
    box_inches = "tight" if crop else None
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches=box_inches, pad_inches=0.04)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, body = text.split(">", 1)
    box = head.split('viewBox="')[1].split('"')[0]
    width_px = float(box.split()[2]) * _PX_PER_POINT
    head = f'<svg viewBox="{box}" role="img" style="max-width:{width_px:.0f}px"'
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = body.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    return f"{head}>{body}".replace(INK, "currentColor")
