"""Figures of what datasets are made of, and of all encoders side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from lary_policy.report.figures.probes import INK, STYLE, grid, svg
from lary_policy.report.parts import Composition
from lary_policy.scores import Score, metric_info

MAX_NAMES = 30  # more lines than that are no figure
_LOGARITHMIC = 30  # ratio of the largest to the smallest count from which on lengths say nothing
_ONE_ORDER = 5.0  # ratio of errors up to which bars of two datasets can be read on one axis
_MARKS = ("o", "D", "s", "^", "v")


def composition(made_of: Composition, name: str) -> str:
    """Draw how many samples each class, robot or collection has in each split, most of all at the top."""
    counts, names = np.array(made_of.counts), list(made_of.names)
    order = np.argsort(-counts.sum(1), kind="stable")
    counts, names = counts[order], [names[i] for i in order]
    if len(names) > MAX_NAMES:
        rest = counts[MAX_NAMES - 1 :]
        names = [*names[: MAX_NAMES - 1], f"{len(rest)} others together"]
        counts = np.concatenate([counts[: MAX_NAMES - 1], rest.sum(0, keepdims=True)])
    at, present = np.arange(len(names)), counts[counts > 0]
    with matplotlib.rc_context(STYLE):
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
        grid(axes)
        return svg(figure, name)


def bars(
    scores: Sequence[Score], paper: Mapping[tuple[str, str], float], colours: Mapping[str, str], name: str
) -> str:
    """Draw one metric of all encoders on all datasets as bars with intervals; rings are the paper's numbers.

    Args:
        scores: Of one metric, at most one an encoder and dataset.
        paper: Numbers by encoder and dataset.
        colours: Of the encoders.
        name: Makes ids of elements unique.
    """
    tasks = list(dict.fromkeys(s.task for s in scores))
    encoders = list(dict.fromkeys(s.encoder for s in scores))
    info = metric_info(scores[0].metric)
    scale = 100.0 if info.percent else 1.0
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.5 + 1.55 * len(tasks), 0.8 + 0.24 * len(encoders)))
        panels = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
        for axes, task in zip(panels, tasks, strict=True):
            for s in (s for s in scores if s.task == task):
                at = encoders.index(s.encoder)
                low, high = scale * (s.value - s.ci95[0]), scale * (s.ci95[1] - s.value)
                axes.barh(at, scale * s.value, color=colours[s.encoder], alpha=0.75, height=0.62)
                axes.errorbar(
                    scale * s.value, at, xerr=[[max(0, low)], [max(0, high)]], color=INK, lw=1, capsize=2
                )
                printed = paper.get((s.encoder, task))
                if printed is not None:
                    axes.scatter(
                        [scale * printed], [at], s=26, facecolor="none", edgecolors=INK, lw=1.1, zorder=3
                    )
            axes.set_title(task, loc="left")
            axes.locator_params(axis="x", nbins=4)
            grid(axes)
        for axes, end in zip(panels, _ends(scores, paper, tasks), strict=True):
            axes.set_xlim(0, 1.06 * scale * end)
        panels[0].set_yticks(range(len(encoders)), encoders)
        panels[0].set_ylim(len(encoders) - 0.4, -0.6)
        panels[0].set_xlabel(f"{info.label}{', %' if info.percent else ''}")
        figure.tight_layout(pad=0.3, w_pad=0.8)
        return svg(figure, name)


def _ends(
    scores: Sequence[Score], paper: Mapping[tuple[str, str], float], tasks: Sequence[str]
) -> list[float]:
    """Return the largest number of each dataset, or that of all where they are of one order."""
    ends = [
        max(max(s.ci95[1], paper.get((s.encoder, s.task), 0.0)) for s in scores if s.task == task) or 1.0
        for task in tasks
    ]
    return [max(ends)] * len(ends) if max(ends) <= _ONE_ORDER * min(ends) else ends
