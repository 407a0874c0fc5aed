"""The part of the page about probes on files: the data, the paper beside ours, heads, and all figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.figures.ablations import Curves, codebook_curves, stride_curves
from lary_policy.report.paper import (
    COMPARED,
    Defect,
    SideBySide,
    defects_of,
    paper_gap,
    paper_number,
    paper_source,
    reference_keys,
    reproduced,
    side_by_side,
)
from lary_policy.report.parts import Attention, ClassTail, HeadInfo, SplitSize
from lary_policy.scores import Score, metric_info, target_label

Colours = Mapping[str, str]
Drawings = list[dict[str, Any]]
_FEW = 3  # frames or panels that fit into less than the width of the page
WHAT = {"class": "classes", "robot": "robot types", "collection": "collections"}


@dataclass(frozen=True)
class FigureGroup:
    """Figures under one heading.

    Attributes:
        heading: What they show.
        width: Of each figure: empty for a third of the page, `wide` for half of it, `full` for all.
        figures: Heading, caption and drawing of each.
    """

    heading: str
    width: str
    figures: Drawings


@dataclass(frozen=True)
class ProbeSuite:
    """What the template shows.

    Attributes:
        heads: The heads behind the scores.
        splits: How much each split holds.
        tables: Tables of the paper with our numbers.
        source: Where the paper's numbers are printed.
        defects: Faults that the numbers of protocol `lary` reproduce.
        groups: All figures.
    """

    heads: tuple[HeadInfo, ...]
    splits: tuple[SplitSize, ...]
    tables: tuple[SideBySide, ...]
    source: str
    defects: tuple[Defect, ...]
    groups: tuple[FigureGroup, ...]


def probe_suite(bundle: ReportBundle, colours: Colours) -> ProbeSuite:
    """Gather this part of the page; it is empty for runs on simulated demonstrations."""
    keys = reference_keys(bundle.heads)
    probes = [s for s in bundle.scores if s.stage == "probe"] if bundle.heads else []
    clips = [a for a in bundle.attention if len(a.frames or a.weights) > _FEW]
    pairs = [a for a in bundle.attention if a not in clips]
    groups = (
        FigureGroup("What the datasets are made of", "", _compositions(bundle)),
        FigureGroup(
            "All encoders side by side",
            "wide"
            if all(len({s.task for s in probes if s.metric == m}) <= _FEW for m in COMPARED)
            else "full",
            [] if bundle.closed_loop else _bars(probes, keys, colours),  # the scatter plots show the same
        ),
        FigureGroup("Strides", "", _curves(stride_curves(probes, keys), keys, colours, "st")),
        FigureGroup("Sizes of the codebook", "", _curves(codebook_curves(probes, keys), keys, colours, "cb")),
        FigureGroup("The long tail", "wide", _tails(bundle, keys, colours)),
        FigureGroup("People and robots", "", _gaps(bundle, keys, colours)),
        FigureGroup("Where class heads look", "full", _attention(clips, "ac")),
        FigureGroup("Where class heads look in pairs", "", _attention(pairs, "ap")),
    )
    return ProbeSuite(
        bundle.heads,
        bundle.splits,
        side_by_side(bundle.scores, bundle.heads),
        paper_source(),
        reproduced(bundle.scores, bundle.heads),
        tuple(group for group in groups if group.figures),
    )


def _compositions(bundle: ReportBundle) -> Drawings:
    from lary_policy.report.figures import datasets as data_plots

    return [
        _figure(
            f"{c.task}, protocol {c.protocol}: {WHAT[c.kind]}",
            f"{len(c.names)} {WHAT[c.kind]}, usable samples of each split.",
            data_plots.composition(c, f"dc{number}"),
        )
        for number, c in enumerate(bundle.compositions)
    ]


def _bars(scores: Sequence[Score], keys: Mapping[str, str], colours: Colours) -> Drawings:
    """Draw each metric of the paper for two or more encoders, by protocol, target and head."""
    from lary_policy.report.figures import datasets as data_plots

    groups: dict[tuple[str, str, str, str, str, str], dict[tuple[str, str], Score]] = {}
    for s in scores:
        if s.metric in COMPARED:
            key = (
                s.metric,
                s.protocol,
                s.target,
                s.head,
                s.split if s.split == "unseen" else "",
                str(s.seed),
            )
            groups.setdefault(key, {})[s.encoder, s.task] = s
    drawn = []
    for number, (key, members) in enumerate(groups.items()):
        if len({encoder for encoder, _ in members}) < 2:
            continue
        found = list(members.values())
        paper = {
            place: n
            for place, s in members.items()
            if (n := paper_number(s, keys.get(s.encoder))) is not None
        }
        metric, protocol, target, head, split, seed = key
        words = [
            metric_info(metric).label,
            f"protocol {protocol}",
            target_label(target),
            head,
            split,
            f"seed {seed}",
        ]
        drawn.append(
            _figure(
                ", ".join(filter(None, words)),
                _sentences(
                    "Lines: 95 % intervals.", "Rings: the paper." if paper else "", _faults(found, keys)
                ),
                data_plots.bars(found, paper, colours, f"sb{number}"),
            )
        )
    return drawn


def _tails(bundle: ReportBundle, keys: Mapping[str, str], colours: Colours) -> Drawings:
    """Draw the encoders of one dataset, protocol and head together."""
    from lary_policy.report.figures import classes as probe_plots

    groups: dict[tuple[Any, ...], list[ClassTail]] = {}
    for tail in bundle.tails:
        groups.setdefault((tail.task, tail.protocol, tail.head, tail.names, tail.train), []).append(tail)
    return [
        _figure(
            f"Long tail: {key[0]}, {key[1]}, {key[2]}",
            _sentences(
                "Each dot is a class; the line is a moving average.", _faults(_behind(bundle, members), keys)
            ),
            probe_plots.long_tail(members, colours, f"lt{number}"),
        )
        for number, (key, members) in enumerate(groups.items())
    ]


def _gaps(bundle: ReportBundle, keys: Mapping[str, str], colours: Colours) -> Drawings:
    from lary_policy.report.figures import classes as probe_plots

    found = {(t.encoder, t.protocol, t.head, t.task): t for t in bundle.tails}
    figures: Drawings = []
    for (encoder, protocol, head, task), human in found.items():
        robot = found.get((encoder, protocol, head, "robot_1st"))
        if task != "human_1st" or robot is None or not set(human.names) & set(robot.names):
            continue
        paper = paper_gap(keys.get(encoder, ""))
        drawing = probe_plots.human_robot_gap(human, robot, paper, colours[encoder], f"gap{len(figures)}")
        rings = "Rings: figure 7 of the paper." if paper else ""
        heading = f"People and robots: {encoder}, {protocol}, {head}"
        faults = _faults(_behind(bundle, (human, robot)), keys)
        figures.append(_figure(heading, _sentences("Verbs that both have.", rings, faults), drawing))
    return figures


def _curves(curves: Iterable[Curves], keys: Mapping[str, str], colours: Colours, prefix: str) -> Drawings:
    from lary_policy.report.figures import classes as probe_plots

    return [
        _figure(
            c.title,
            _sentences(
                "Bars: 95 % intervals.",
                "Dashed: the paper." if c.paper else "",
                _faults([s for line in c.lines.values() for s in line], keys),
            ),
            probe_plots.curve(
                c.lines,
                c.positions,
                c.paper,
                {n: colours[e] for n, e in c.encoder.items()},
                c.label,
                f"{prefix}{i}",
            ),
        )
        for i, c in enumerate(curves)
    ]


def _attention(samples: Sequence[Attention], prefix: str) -> Drawings:
    from lary_policy.report.figures import attention as attention_plot

    return [
        _figure(
            f"{a.task}, {a.protocol}, {a.encoder}: '{a.true}', predicted '{a.predicted}'",
            f"Brightest: {max(x for one in a.weights for row in one for x in row):.1f} times the even share."
            + ("" if a.frames else " The frames are not at hand."),
            attention_plot.attention(a, f"{prefix}{number}"),
        )
        for number, a in enumerate(samples)
    ]


def _behind(bundle: ReportBundle, tails: Iterable[ClassTail]) -> list[Score]:
    """Return the scores of the heads that some tails are of."""
    wanted = {(t.encoder, t.task, t.protocol, t.head) for t in tails}
    return [s for s in bundle.scores if (s.encoder, s.task, s.protocol, s.head) in wanted]


def _faults(scores: Iterable[Score], keys: Mapping[str, str]) -> str:
    """Name the faults of the reference that a figure's numbers reproduce."""
    names = dict.fromkeys(d.name for s in scores for d in defects_of(s, keys.get(s.encoder)))
    return f"Reproduces {', '.join(sorted(names, key=lambda n: int(n[1:])))}." if names else ""


def _sentences(*parts: str) -> str:
    return " ".join(filter(None, parts))


def _figure(heading: str, caption: str, drawing: str) -> dict[str, Any]:
    return {"heading": heading, "caption": caption, "svg": Markup(drawing)}
