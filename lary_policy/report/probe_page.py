"""The part of the page about probes on files: the paper beside ours, heads, long tail, curves, attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lary_policy.report.ablations import Curves, codebook_curves, stride_curves
from lary_policy.report.bundle import ReportBundle
from lary_policy.report.defects import Defect
from lary_policy.report.paper import paper_gap, paper_source
from lary_policy.report.probe_parts import ClassTail, HeadInfo
from lary_policy.report.side_by_side import SideBySide, reference_keys, reproduced, side_by_side

Colours = Mapping[str, str]


@dataclass(frozen=True)
class ProbeSuite:
    """What the template shows.

    Attributes:
        heads: The heads behind the scores.
        tables: Tables of the paper with our numbers.
        source: Where the paper's numbers are printed.
        defects: Faults that the numbers of protocol `lary` reproduce.
        figures: Heading, caption and drawing of each figure.
    """

    heads: tuple[HeadInfo, ...]
    tables: tuple[SideBySide, ...]
    source: str
    defects: tuple[Defect, ...]
    figures: tuple[dict[str, Any], ...]


def probe_suite(bundle: ReportBundle, colours: Colours) -> ProbeSuite:
    """Gather this part of the page; it is empty for runs on simulated demonstrations."""
    keys = reference_keys(bundle.heads)
    curves = (*stride_curves(bundle.scores, keys), *codebook_curves(bundle.scores, keys))
    figures = [*_tails(bundle, colours), *_gaps(bundle, colours, keys), *_curves(curves, colours)]
    return ProbeSuite(
        bundle.heads,
        side_by_side(bundle.scores, bundle.heads),
        paper_source(),
        reproduced(bundle.scores, bundle.heads),
        tuple(figures + _attention(bundle, colours)),
    )


def _tails(bundle: ReportBundle, colours: Colours) -> list[dict[str, Any]]:
    """Draw the encoders of one dataset, protocol and head together."""
    from lary_policy.report import probe_plots

    groups: dict[tuple[Any, ...], list[ClassTail]] = {}
    for tail in bundle.tails:
        groups.setdefault((tail.task, tail.protocol, tail.head, tail.names, tail.train), []).append(tail)
    return [
        _figure(
            f"Long tail: {key[0]}, {key[1]}, {key[2]}",
            "Each dot is a class; the line is a moving average.",
            probe_plots.long_tail(members, colours, f"lt{number}"),
        )
        for number, (key, members) in enumerate(groups.items())
    ]


def _gaps(bundle: ReportBundle, colours: Colours, keys: Mapping[str, str]) -> list[dict[str, Any]]:
    from lary_policy.report import probe_plots

    found = {(t.encoder, t.protocol, t.head, t.task): t for t in bundle.tails}
    figures: list[dict[str, Any]] = []
    for (encoder, protocol, head, task), human in found.items():
        robot = found.get((encoder, protocol, head, "robot_1st"))
        if task != "human_1st" or robot is None or not set(human.names) & set(robot.names):
            continue
        paper = paper_gap(keys.get(encoder, ""))
        drawing = probe_plots.human_robot_gap(human, robot, paper, colours[encoder], f"gap{len(figures)}")
        rings = " Rings: figure 7 of the paper." if paper else ""
        heading = f"People and robots: {encoder}, {protocol}, {head}"
        figures.append(_figure(heading, f"Verbs that both have.{rings}", drawing))
    return figures


def _curves(curves: tuple[Curves, ...], colours: Colours) -> list[dict[str, Any]]:
    from lary_policy.report import probe_plots

    return [
        _figure(
            c.title,
            "Bars: 95 % intervals. Dashed: the paper." if c.paper else "Bars: 95 % intervals.",
            probe_plots.curve(
                c.lines,
                c.positions,
                c.paper,
                {n: colours[e] for n, e in c.encoder.items()},
                c.label,
                f"cv{i}",
            ),
        )
        for i, c in enumerate(curves)
    ]


def _attention(bundle: ReportBundle, colours: Colours) -> list[dict[str, Any]]:
    from lary_policy.report import probe_plots

    return [
        _figure(
            f"Attention: {a.task}, {a.protocol}, {a.encoder}",
            f"A sample of '{a.true}', predicted '{a.predicted}'. Time steps from left to right.",
            probe_plots.attention(a, colours[a.encoder], f"at{number}"),
        )
        for number, a in enumerate(bundle.attention)
    ]


def _figure(heading: str, caption: str, drawing: str) -> dict[str, Any]:
    return {"heading": heading, "caption": caption, "svg": Markup(drawing)}
