"""How names and numbers are spelled on the page: metric registry, modes, rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lary_policy.scores.score import Score


@dataclass(frozen=True)
class MetricInfo:
    """How one metric is shown.

    Attributes:
        label: Words for tables.
        higher_is_better: True, False, or None when neither direction is known to be good.
        percent: Shown in percent.
        unit: Unit behind the number, or empty.
        order: Position in tables.
    """

    label: str
    higher_is_better: bool | None
    percent: bool = False
    unit: str = ""
    order: int = 99


METRICS: dict[str, MetricInfo] = {
    "mse": MetricInfo("MSE", False, order=0),
    "rmse_cm": MetricInfo("RMS error", False, unit="cm", order=10),
    "rmse_deg": MetricInfo("RMS error", False, unit="degrees", order=12),
    "rmse": MetricInfo("RMS error", False, unit="fraction", order=13),
    "deg": MetricInfo("angle error", False, unit="degrees", order=11),
    "top1": MetricInfo("top-1 accuracy", True, percent=True, order=20),
    "top1_macro": MetricInfo("top-1 accuracy, mean over classes", True, percent=True, order=21),
    "f1_macro": MetricInfo("F1, mean over classes", True, percent=True, order=23),
    "r2": MetricInfo("explained variance R²", True, order=8),
    "success": MetricInfo("success", True, percent=True, order=30),
    "success_at_end": MetricInfo("success at the end", True, percent=True, order=31),
}
MODES: dict[str, str] = {
    "pair": "inverse model",
    "subgoal": "subgoal mode",
    "policy": "policy mode",
    "atomic": "atomic primitives",
    "composite": "composite actions",
}
TARGETS: dict[str, str] = {
    "absolute": "absolute targets",
    "relative": "relative targets",
    "relative_pose": "relative pose over the chunk",
    "displacement": "last minus first action (LARYBench's relative)",
    "class": "classes",
}


def metric_info(metric: str) -> MetricInfo:
    """Describe `name` or `name/group`; unknown metrics are shown under their own name without a direction."""
    name, _, group = metric.partition("/")
    info = METRICS.get(name)
    if info is None:
        return MetricInfo(metric, None)
    label = f"{info.label}, {group}" if group else info.label
    order = info.order + (1 if group else 0)
    return MetricInfo(label, info.higher_is_better, info.percent, info.unit, order)


def mode_label(mode: str) -> str:
    """Return the words for a mode, or the mode itself."""
    return MODES.get(mode, mode)


def target_label(target: str) -> str:
    """Return the words for a target, or the target itself."""
    return TARGETS.get(target, target)


def _decimals(width: float, least: int, most: int) -> int:
    """Decimals that show the first digit of half an interval's width."""
    return min(most, max(least, -math.floor(math.log10(width / 2)))) if width > 0 else least


def format_number(value: float, ci95: tuple[float, float], *, percent: bool) -> tuple[str, str]:
    """Return value and interval as text, e.g. `("0.31", "[0.29, 0.33]")` or `("96 %", "[87, 99]")`."""
    width = ci95[1] - ci95[0]
    scale = 100.0 if percent else 1.0
    digits = _decimals(width * scale, 0, 2) if percent else _decimals(width, 2, 6)
    numbers = [f"{x * scale:.{digits}f}" for x in (value, *ci95)]
    return (f"{numbers[0]} %" if percent else numbers[0]), f"[{numbers[1]}, {numbers[2]}]"


def format_score(score: Score) -> str:
    """Return `0.31 [0.29, 0.33]`, with percent or unit where the metric has one."""
    info = metric_info(score.metric)
    value, interval = format_number(score.value, score.ci95, percent=info.percent)
    return f"{value} {interval}{f' {info.unit}' if info.unit else ''}"


def join_words(words: list[str], last: str = "and") -> str:
    """Join words as in a sentence: `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
