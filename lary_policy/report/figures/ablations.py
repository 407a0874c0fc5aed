"""Which scores form a curve: one encoder over strides, one family of latents over sizes of its codebook."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lary_policy.report.paper import paper_number
from lary_policy.scores import Score, metric_info

STRIDES = {"vlabench": 5.0, "vlabench_15": 15.0, "vlabench_30": 30.0}
SIZES = {"codes": "codes of the codebook", "tokens": "tokens of a latent", "width": "width of a code"}
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
