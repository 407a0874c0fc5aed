"""All encoders side by side, on all datasets, with the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from markupsafe import Markup
from matplotlib.figure import Figure

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.figures.registry import Drawing, figure_kind
from lary_policy.report.figures.style import INK, Palette, faint_grid, house_style, sentences, svg
from lary_policy.report.paper import COMPARED, fault_names, paper_number, reference_keys
from lary_policy.scores import Score, metric_info, target_label

_ONE_ORDER = 5.0  # ratio of errors up to which bars of two datasets can be read on one axis


@figure_kind("All encoders side by side", order=30, needs=("heads",), width="full")
def every_metric(bundle: ReportBundle, palette: Palette) -> Iterable[Drawing]:
    """Draw each metric of the paper for two or more encoders, by protocol, target and head.

    In runs with a closed loop the plots of probe score against success show the same.
    """
    if bundle.closed_loop:
        return
    keys, groups = reference_keys(bundle.heads), _groups(bundle.scores)
    for number, (key, members) in enumerate(groups.items()):
        metric, protocol, target, head, split, seed = key
        if len({encoder for encoder, _ in members}) < 2:
            continue
        found = tuple(members.values())
        paper = tuple(paper_number(s, keys.get(s.encoder)) for s in found)
        words = (metric_info(metric).label, f"protocol {protocol}", target_label(target), head, split, seed)
        yield Drawing(
            ", ".join(filter(None, words)),
            sentences(
                "Lines: 95 % intervals.", "Rings: the paper." if any(paper) else "", fault_names(found, keys)
            ),
            (bars(found, paper, palette, f"sb{number}"),),
        )


def _groups(scores: Iterable[Score]) -> dict[tuple[str, ...], dict[tuple[str, str], Score]]:
    """Return the scores that bars can be compared of, by encoder and dataset."""
    groups: dict[tuple[str, ...], dict[tuple[str, str], Score]] = {}
    for s in scores:
        if s.stage == "probe" and s.metric in COMPARED:
            split = s.split if s.split == "unseen" else ""
            key = (s.metric, s.protocol, s.target, s.head, split, f"seed {s.seed}")
            groups.setdefault(key, {})[s.encoder, s.task] = s
    return groups


@lru_cache(maxsize=64)
def bars(scores: tuple[Score, ...], paper: tuple[float | None, ...], palette: Palette, name: str) -> Markup:
    """Draw one metric of all encoders on all datasets as bars with intervals; rings are the paper's numbers.

    Args:
        scores: Of one metric, at most one an encoder and dataset.
        paper: The paper's number beside each, or None.
        palette: Colours of the encoders.
        name: Makes ids of elements unique.
    """
    printed = {(s.encoder, s.task): number for s, number in zip(scores, paper, strict=True)}
    tasks = list(dict.fromkeys(s.task for s in scores))
    encoders = list(dict.fromkeys(s.encoder for s in scores))
    info = metric_info(scores[0].metric)
    scale = 100.0 if info.percent else 1.0
    with house_style():
        figure = Figure(figsize=(1.5 + 1.55 * len(tasks), 0.8 + 0.24 * len(encoders)))
        panels = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
        for axes, task in zip(panels, tasks, strict=True):
            for s in (s for s in scores if s.task == task):
                at = encoders.index(s.encoder)
                ends = s.ends
                low, high = scale * (s.value - ends[0]), scale * (ends[1] - s.value)
                axes.barh(at, scale * s.value, color=palette[s.encoder], alpha=0.75, height=0.62)
                axes.errorbar(
                    scale * s.value, at, xerr=[[max(0, low)], [max(0, high)]], color=INK, lw=1, capsize=2
                )
                ring = printed[s.encoder, task]
                if ring is not None:
                    axes.scatter(
                        [scale * ring], [at], s=26, facecolor="none", edgecolors=INK, lw=1.1, zorder=3
                    )
            axes.set_title(task, loc="left")
            axes.locator_params(axis="x", nbins=4)
            faint_grid(axes)
        for axes, end in zip(panels, _ends(scores, printed, tasks), strict=True):
            axes.set_xlim(0, 1.06 * scale * end)
        panels[0].set_yticks(range(len(encoders)), encoders)
        panels[0].set_ylim(len(encoders) - 0.4, -0.6)
        panels[0].set_xlabel(f"{info.label}{', %' if info.percent else ''}")
        figure.tight_layout(pad=0.3, w_pad=0.8)
        return svg(figure, name)


def _ends(
    scores: Sequence[Score], printed: Mapping[tuple[str, str], float | None], tasks: Sequence[str]
) -> list[float]:
    """Return the largest number of each dataset, or that of all where they are of one order."""
    ends = [
        max(max(s.ends[1], printed[s.encoder, s.task] or 0.0) for s in scores if s.task == task) or 1.0
        for task in tasks
    ]
    return [max(ends)] * len(ends) if max(ends) <= _ONE_ORDER * min(ends) else ends
