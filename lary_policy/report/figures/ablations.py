"""Scores that form a curve: one encoder over strides, one family of latents over sizes of its codebook."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.figures.registry import Drawing, figure_kind
from lary_policy.report.figures.style import Palette, faint_grid, house_style, sentences, svg
from lary_policy.report.paper import fault_names, paper_number, reference_keys
from lary_policy.scores import Score, metric_info

STRIDES = {"vlabench": 5.0, "vlabench_15": 15.0, "vlabench_30": 30.0}
SIZES = {"codes": "codes of the codebook", "tokens": "tokens of a latent", "width": "width of a code"}
_MARKS = ("o", "s", "^", "D", "v")
_RUN = re.compile(r"dinov3-cs(?P<codes>\d+)-sl(?P<tokens>\d+)-dim(?P<width>\d+)(-lr.*)?")


@dataclass(frozen=True)
class Curves:
    """One figure.

    Attributes:
        title: What is varied.
        label: Of the horizontal axis.
        lines: Scores of each line, at least two each.
        positions: Place of each score's task or encoder.
        paper: The paper's numbers of each line by place.
        encoder: Encoder whose colour each line has.
    """

    title: str
    label: str
    lines: Mapping[str, tuple[Score, ...]]
    positions: Mapping[str, float]
    paper: Mapping[str, Mapping[float, float]]
    encoder: Mapping[str, str]


@figure_kind("Strides", order=40, needs=("heads",))
def strides(bundle: ReportBundle, palette: Palette) -> Iterable[Drawing]:
    """Draw the error over strides of VLABench."""
    keys = reference_keys(bundle.heads)
    return _drawings(stride_curves(bundle.scores, keys), keys, palette, "st")


@figure_kind("Sizes of the codebook", order=50, needs=("heads",))
def codebooks(bundle: ReportBundle, palette: Palette) -> Iterable[Drawing]:
    """Draw scores over each size of LAPA-DINOv3's quantiser."""
    keys = reference_keys(bundle.heads)
    return _drawings(codebook_curves(bundle.scores, keys), keys, palette, "cb")


def _drawings(
    found: Iterable[Curves], keys: Mapping[str, str], palette: Palette, prefix: str
) -> Iterable[Drawing]:
    for number, one in enumerate(found):
        scores = [s for line in one.lines.values() for s in line]
        dashed = "Dashed: the paper." if one.paper else ""
        yield Drawing(
            one.title,
            sentences("Bars: 95 % intervals.", dashed, fault_names(scores, keys)),
            (curve(one, palette, f"{prefix}{number}"),),
        )


def stride_curves(scores: Sequence[Score], keys: Mapping[str, str]) -> tuple[Curves, ...]:
    """Return the error over strides of VLABench, a figure for each protocol, target and head."""
    figures: dict[tuple[str, ...], dict[str, list[Score]]] = {}
    for s in scores:
        if s.metric == "mse" and s.task in STRIDES:
            figure = (s.protocol, s.target, s.head, s.split, f"seed {s.seed}")
            figures.setdefault(figure, {}).setdefault(s.encoder, []).append(s)
    return tuple(
        _curves("VLABench, " + ", ".join(figure), "stride (control steps)", lines, STRIDES, keys, {})
        for figure, lines in figures.items()
        if any(len(line) > 1 for line in lines.values())
    )


def codebook_curves(scores: Sequence[Score], keys: Mapping[str, str]) -> tuple[Curves, ...]:
    """Return scores of LAPA-DINOv3 over each size of its quantiser that runs of equal other sizes vary."""
    sizes = {encoder: _sizes(key) for encoder, key in keys.items() if _RUN.fullmatch(key)}
    found = []
    for varied, label in SIZES.items():
        figures: dict[tuple[str, ...], dict[str, list[Score]]] = {}
        for s in scores:
            if s.encoder in sizes and s.metric in ("mse", "top1"):
                rest = [f"{n} {v}" for n, v in sizes[s.encoder].items() if n != varied]
                figure = (
                    s.task,
                    s.protocol,
                    metric_info(s.metric).label,
                    s.target,
                    s.split,
                    f"seed {s.seed}",
                )
                line = f"{', '.join(rest)}, {s.head}"
                figures.setdefault(figure, {}).setdefault(line, []).append(s)
        places = {encoder: float(size[varied]) for encoder, size in sizes.items()}
        found += [
            _curves(
                ", ".join(figure), label, lines, places, keys, {n: v[0].encoder for n, v in lines.items()}
            )
            for figure, lines in figures.items()
            if any(len(line) > 1 for line in lines.values())
        ]
    return tuple(found)


def _sizes(key: str) -> dict[str, int]:
    match = _RUN.fullmatch(key)
    return {name: int(match[name]) for name in SIZES} if match else {}


def _curves(
    title: str,
    label: str,
    lines: Mapping[str, Sequence[Score]],
    positions: Mapping[str, float],
    keys: Mapping[str, str],
    encoder: Mapping[str, str],
) -> Curves:
    kept = {name: tuple(line) for name, line in lines.items() if len(line) > 1}
    printed: dict[str, dict[float, float]] = {}
    for name, line in kept.items():
        for s in line:
            number = paper_number(s, keys.get(s.encoder))
            if number is not None:
                place = positions[s.task] if s.task in positions else positions[s.encoder]
                printed.setdefault(name, {})[place] = number
    return Curves(title, label, kept, positions, printed, {name: encoder.get(name, name) for name in kept})


def curve(curves: Curves, palette: Palette, name: str) -> Markup:
    """Draw a metric over stride, codebook size, ... with intervals; dashed lines are the paper's."""
    info = metric_info(next(iter(curves.lines.values()))[0].metric)
    scale = 100.0 if info.percent else 1.0
    drawn: list[str] = []
    with house_style():
        figure = Figure(figsize=(4.2, 2.8))
        axes = figure.add_subplot()
        for line, scores in curves.lines.items():
            points = sorted(((_position(s, curves.positions), s) for s in scores), key=lambda point: point[0])
            at = [place for place, _ in points]
            value = scale * np.array([s.value for _, s in points])
            ends = scale * np.array([s.ends for _, s in points])
            bars = np.maximum([value - ends[:, 0], ends[:, 1] - value], 0)
            colour = palette[curves.encoder[line]]
            mark = _MARKS[drawn.count(colour) % len(_MARKS)]  # lines of one encoder differ by their marks
            drawn.append(colour)
            axes.errorbar(at, value, yerr=bars, fmt=f"{mark}-", ms=4, lw=1.4, color=colour, label=line)
            printed = sorted(curves.paper.get(line, {}).items())
            for place, number in printed:
                axes.scatter(place, scale * number, s=24, marker=mark, facecolor="none", edgecolors=colour)
            axes.plot([p for p, _ in printed], [scale * v for _, v in printed], ls="--", lw=1, color=colour)
        _ticks(axes, sorted({_position(s, curves.positions) for line in curves.lines.values() for s in line}))
        axes.set_xlabel(curves.label)
        axes.set_ylabel(f"{info.label}{', %' if info.percent else ''}")
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(-0.16, -0.2), ncols=1)
        faint_grid(axes)
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
