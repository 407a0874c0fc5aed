"""What datasets are made of."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.figures.registry import Drawing, figure_kind
from lary_policy.report.figures.style import INK, Palette, faint_grid, house_style, svg
from lary_policy.report.parts import Composition

MAX_NAMES = 30  # more lines than that are no figure
_LOGARITHMIC = 30  # ratio of the largest to the smallest count from which on lengths say nothing
_MARKS = ("o", "D", "s", "^", "v")
_WORDS = {"class": "classes", "robot": "robot types", "collection": "collections"}


@figure_kind("What the datasets are made of", order=20, needs=("compositions",))
def drawn_compositions(bundle: ReportBundle, palette: Palette) -> Iterable[Drawing]:
    """Draw the classes, robots and collections of each dataset."""
    for number, one in enumerate(bundle.compositions):
        what = _WORDS[one.kind]
        yield Drawing(
            f"{one.task}, protocol {one.protocol}: {what}",
            f"{sum(name != one.BLANK for name in one.names)} {what}, usable samples of each split.",
            (composition(one, f"dc{number}"),),
        )


@lru_cache(maxsize=64)
def composition(made_of: Composition, name: str) -> Markup:
    """Draw how many samples each class, robot or collection has in each split, most of all at the top."""
    counts, names = np.array(made_of.counts), list(made_of.names)
    order = np.argsort(-counts.sum(1), kind="stable")
    counts, names = counts[order], [names[i] for i in order]
    if len(names) > MAX_NAMES:
        rest = counts[MAX_NAMES - 1 :]
        names = [*names[: MAX_NAMES - 1], f"{len(rest)} others together"]
        counts = np.concatenate([counts[: MAX_NAMES - 1], rest.sum(0, keepdims=True)])
    at, present = np.arange(len(names)), counts[counts > 0]
    with house_style():
        figure = Figure(figsize=(4.2, 0.95 + 0.17 * len(names)))
        axes = figure.add_subplot()
        for place, split in enumerate(made_of.splits):
            column = counts[:, place]
            shown = column > 0
            filled = {"color": INK, "alpha": 0.75} if place == 0 else {"facecolor": "none", "edgecolors": INK}
            axes.scatter(
                column[shown], at[shown], s=20, marker=_MARKS[place % len(_MARKS)], label=split, **filled
            )
        axes.set_yticks(at, names, size=7.5)
        axes.set_ylim(len(names) - 0.4, -0.6)
        if len(present) and present.max() > _LOGARITHMIC * present.min():
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_xlim(0, 1.08 * max(1, int(counts.max())))
            axes.locator_params(axis="x", nbins=4, integer=True)
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xlabel("samples")
        axes.legend(
            frameon=False, fontsize=7.5, ncols=len(made_of.splits), loc="lower left", bbox_to_anchor=(0, 1)
        )
        faint_grid(axes)
        return svg(figure, name)
