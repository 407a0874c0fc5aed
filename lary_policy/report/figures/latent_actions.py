"""Latent action models over the settings that runs of equal other settings vary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.figures.registry import Drawing, figure_kind
from lary_policy.report.figures.style import Palette, faint_grid, house_style, numbers_table, svg
from lary_policy.report.latent_actions import LamPoint
from lary_policy.scores import Score, metric_info

VARIED = {"codes": "codes of the codebook", "tokens": "codes of a pair", "width": "width of a code"}
_MARKS = ("o", "s", "^", "D", "v")
_CAPTION = (
    "Held-out pairs of frames: how much smaller the error of the later frame is than that of copying the "
    "earlier one, and which part of the codes is used. Then what heads on the model's latents score on test."
)

_OF_TABLE = (
    "What held-out pairs of frames said when training ended. Below 0 % a model predicts the later frame "
    "worse than the earlier frame itself does. Perplexity: as many codes, used evenly, would tell as much."
)
_HEADS = ("frames", "codes", "codes of a pair", "width", "error below copying", "codes used", "perplexity")

Lines = dict[str, dict[float, float]]


@figure_kind("Latent action models", order=55, needs=("lams",), width="full")
def latent_action_models(bundle: ReportBundle, palette: Palette) -> Iterator[Drawing]:
    """Draw held-out error, use of the codebook and scores of heads over each size of the model."""
    if bundle.lams:
        yield Drawing("All models", _OF_TABLE, (_table(bundle.lams),))
    for number, (varied, label) in enumerate(VARIED.items()):
        families = _families(bundle.lams, varied)
        if families:
            panels = [*_of_training(families, varied), *_of_heads(families, varied, bundle.scores)]
            drawn = tuple(
                _panel(lines, label, ylabel, f"lam{number}-{place}")
                for place, (ylabel, lines) in enumerate(panels)
            )
            yield Drawing(f"Over {label}", _CAPTION, drawn)


def _table(points: Sequence[LamPoint]) -> Markup:
    rows = []
    for p in points:
        sizes = (f"{p.settings[name]:g}" for name in VARIED)
        met = (f"{100 * p.gain:.0f} %", str(p.used), f"{p.perplexity:.1f}")
        rows.append((p.run, p.encoder, (str(p.settings["frames"]), *sizes, *met)))
    return numbers_table("model", _HEADS, rows)


def _families(points: Sequence[LamPoint], varied: str) -> dict[str, list[LamPoint]]:
    """Return models by their other settings, of which at least two differ in the varied one."""
    every = {name for point in points for name in point.settings}
    told = [n for n in sorted(every) if n != varied and len({p.settings.get(n) for p in points}) > 1]
    found: dict[str, list[LamPoint]] = {}
    for point in points:
        name = ", ".join(f"{n} {point.settings.get(n)}" for n in told) or point.encoder
        found.setdefault(name, []).append(point)
    return {n: line for n, line in found.items() if len({p.settings[varied] for p in line}) > 1}


def _of_training(families: Mapping[str, Sequence[LamPoint]], varied: str) -> Iterator[tuple[str, Lines]]:
    measures = {
        "error below copying, %": lambda p: 100 * p.gain,
        "codes used, %": lambda p: 100 * p.used / float(p.settings["codes"]),
    }
    for label, measure in measures.items():
        yield (
            label,
            {n: {float(p.settings[varied]): measure(p) for p in line} for n, line in families.items()},
        )


def _of_heads(
    families: Mapping[str, Sequence[LamPoint]], varied: str, scores: Sequence[Score]
) -> Iterator[tuple[str, Lines]]:
    """Yield the scores of each question on test, where at least two models of a family were asked it."""
    asked: dict[str, Lines] = {}
    for score in scores:
        if score.metric not in ("mse", "success", "top1") or score.split not in ("test", "rollout", ""):
            continue
        for name, line in families.items():
            for point in line:
                if point.is_view(score.encoder):
                    info = metric_info(score.metric)
                    unit, scale = (", %", 100.0) if info.percent else ("", 1.0)
                    question = f"{score.task}, {score.mode}: {info.label}{unit}"
                    output = (
                        score.encoder.rpartition(",")[2] if "quantised" in score.encoder else "continuous"
                    )
                    at = asked.setdefault(question, {}).setdefault(f"{name}, {output}", {})
                    at[float(point.settings[varied])] = scale * score.value
    for question, lines in asked.items():
        kept = {name: line for name, line in lines.items() if len(line) > 1}
        if kept:
            yield question, kept


def _panel(lines: Lines, xlabel: str, ylabel: str, name: str) -> Markup:
    places = sorted({place for line in lines.values() for place in line})
    with house_style():
        figure = Figure(figsize=(4.2, 2.8))
        axes = figure.add_subplot()
        for number, (label, line) in enumerate(lines.items()):
            axes.plot(
                *zip(*sorted(line.items()), strict=True), f"{_MARKS[number % len(_MARKS)]}-",
                ms=4, lw=1.4, color=f"C{number}", label=label,
            )  # fmt: skip
        if places[-1] >= 4 * places[0] > 0:
            axes.set_xscale("log")
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(-0.16, -0.2), ncols=1)
        faint_grid(axes)
        return svg(figure, name)
