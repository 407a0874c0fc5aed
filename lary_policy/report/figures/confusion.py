"""Which classes a head takes for which."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.figures.registry import Drawing, figure_kind
from lary_policy.report.figures.style import INK, Palette, house_style, svg
from lary_policy.report.parts import Confusion

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
