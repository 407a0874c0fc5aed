"""Predicted and true actions over the steps of one episode."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.figures.registry import Drawing, figure_kind
from lary_policy.report.figures.style import INK, Palette, faint_grid, house_style, sentences, svg
from lary_policy.report.parts import Trajectory
from lary_policy.scores import join_words, mode_label, target_label


@figure_kind(
    "Predicted and true actions",
    order=90,
    needs=("trajectories",),
    width="full",
    intro="Across: control steps of one test episode; the grey line is true, the others are in the encoders' "
    "colours. Each prediction starts from the true frames, so errors do not add up.",
    absent="No trajectory was recorded.",
)
def over_an_episode(bundle: ReportBundle, palette: Palette) -> Iterable[Drawing]:
    """Draw the predictions of one episode together, a panel a dimension that varies in training."""
    groups: dict[tuple[Any, ...], list[Trajectory]] = {}
    for t in bundle.trajectories:
        groups.setdefault((t.task, t.mode, t.target, t.episode, t.labels, t.true), []).append(t)
    for number, members in enumerate(groups.values()):
        first, still = members[0], _constant(bundle, members[0])
        panels = tuple(
            dimension(tuple(members), d, palette, f"t{number}-{d}")
            for d, label in enumerate(first.labels)
            if label not in still
        )
        yield Drawing(
            f"{first.task}, {mode_label(first.mode)}, {target_label(first.target)}, episode {first.episode}",
            sentences(f"Constant in training, so not drawn: {join_words(still)}." if still else ""),
            panels,
        )


def _constant(bundle: ReportBundle, t: Trajectory) -> list[str]:
    """Return the labels of a trajectory that never change in the training data."""
    task = t.task.partition(" (")[0]
    return [
        d.label
        for d in bundle.constant_dims
        if (d.task, d.target) == (task, t.target) and d.label in t.labels
    ]


@lru_cache(maxsize=1024)
def dimension(members: Sequence[Trajectory], number: int, palette: Palette, name: str) -> Markup:
    """Draw one action dimension of one episode: true in the text colour, predictions in the encoders'."""
    with house_style():
        figure = Figure(figsize=(2.9, 1.75))
        axes = figure.add_subplot()
        first = members[0]
        steps = np.arange(len(first.true))
        axes.plot(steps, [row[number] for row in first.true], color=INK, lw=2.4, alpha=0.55)
        for member in members:
            axes.plot(steps, [row[number] for row in member.predicted], color=palette[member.encoder], lw=1.1)
        unit = f" ({first.units[number]})" if first.units and first.units[number] else ""
        axes.set_title(f"{first.labels[number]}{unit}", loc="left")
        axes.margins(x=0.01)
        faint_grid(axes)
        figure.subplots_adjust(left=0.23, right=0.985, bottom=0.14, top=0.86)  # equal axes side by side
        return svg(figure, name, crop=False)
