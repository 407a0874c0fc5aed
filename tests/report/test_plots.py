from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from lary_policy.report.correlate import Point, correlate
from lary_policy.report.figures.classes import confusion
from lary_policy.report.figures.correlation import joined, scatter
from lary_policy.report.figures.style import COLOURS, INK, Palette
from lary_policy.report.figures.trajectories import dimension
from lary_policy.report.parts import Confusion, Trajectory

from .synthetic import ENCODERS, all_scores, confusions, probe_scores, rollout_scores, trajectories

PALETTE = Palette(ENCODERS)
EVIL = '<script>alert("x")</script> $\\frac{1}{0}$ & co'


def figures() -> list[str]:
    panel = correlate(all_scores())[0][0]
    members = [t for t in trajectories() if t.task == "reach"]
    return [
        scatter(panel, PALETTE, "s0"),
        dimension(tuple(members), 0, PALETTE, "t0"),
        confusion(confusions()[0], PALETTE["pixels"], "c0"),
    ]


@pytest.mark.parametrize("svg", figures())
def test_svg_is_well_formed_and_carries_no_address(svg: str) -> None:
    ET.fromstring(svg)
    assert svg.startswith("<svg viewBox=")
    assert "http" not in svg
    assert "<metadata" not in svg
    assert INK not in svg
    assert "currentColor" in svg


def test_ids_of_two_figures_never_meet() -> None:
    panel = correlate(all_scores())[0][0]
    first, second = (scatter(panel, PALETTE, name) for name in ("a", "b"))
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, own in zip((first, second), ids, strict=True):
        used = set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg))
        assert used <= own


def test_scatter_draws_each_encoder_once_in_its_colour() -> None:
    panel = correlate(all_scores())[0][0]
    svg = scatter(panel, PALETTE, "s")
    for name, colour in ((e, PALETTE[e]) for e in ENCODERS):
        assert f">{name}</text>" in svg
        assert colour in svg


def test_trajectory_follows_its_numbers() -> None:
    """The predicted line of a constant offset lies above the true one on the page (smaller y in SVG)."""
    true = np.zeros((5, 1))
    member = Trajectory("pixels", "reach", "pair", "relative", "1", ("x",), true, true + 1.0, ("m",))  # type: ignore[arg-type]
    svg = dimension((member,), 0, PALETTE, "t")
    lines = re.findall(r'<path d="M [\d.]+ ([\d.]+)[^"]*" clip-path[^>]*style="[^"]*stroke: ([^;"]+)', svg)
    heights = {colour: float(y) for y, colour in lines}
    assert heights[PALETTE["pixels"]] < min(y for c, y in heights.items() if c == "currentColor")
    assert "x (m)" in svg


def test_confusion_prints_counts_only_when_few_classes() -> None:
    few = Confusion("pixels", "reach", ("a", "b"), ((731, 2), (0, 0)))
    assert ">731</text>" in confusion(few, "#0b7fc4", "c")
    many = tuple(f"k{i}" for i in range(28))
    counts = tuple(tuple(731 * int(i == j) for j in range(28)) for i in range(28))
    svg = confusion(Confusion("pixels", "reach", many, counts), "#0b7fc4", "c")
    assert "731" not in re.sub(r"<path[^>]*>", "", svg)
    assert ">k27</text>" in svg


def test_names_are_escaped_and_never_read_as_formulas() -> None:
    matrix = Confusion("pixels", "reach", (EVIL, "b"), ((1, 0), (0, 1)))
    svg = confusion(matrix, "#0b7fc4", "c")
    assert "<script" not in svg
    texts = ["".join(node.itertext()) for node in ET.fromstring(svg).iter("text")]
    assert texts.count(EVIL) == 2


def test_colours_are_stable_and_cover_any_number_of_encoders() -> None:
    palette = Palette(tuple(f"e{i}" for i in range(20)))
    assert [palette[n] for n in palette.encoders[: len(COLOURS)]] == list(COLOURS)
    assert palette["e8"] == palette["e0"]
    assert palette.of("-") == COLOURS[0]


def spans(svg: str, names: tuple[str, ...]) -> list[tuple[float, float, float]]:
    """Return left end, right end and baseline of the written names, with letters of half their height."""
    found = []
    for node in (n for n in ET.fromstring(svg).iter("text") if n.text in names):
        place = re.search(r"rotate\(-?\d+ ([\d.]+) ([\d.]+)\)", node.get("transform") or "")
        assert place is not None
        x, width = float(place[1]), 4.5 * len(str(node.text))
        left = x - width if "text-anchor: end" in (node.get("style") or "") else x
        found.append((left, left + width, float(place[2])))
    return found


def test_names_of_equal_points_do_not_cover_each_other() -> None:
    """Five encoders of nearly one score: their names stand at other heights or on other sides."""
    names = tuple(f"encoder-{i}" for i in range(5))
    scores = probe_scores("reach", "pair", {n: 0.3 + 0.0001 * i for i, n in enumerate(names)})
    scores += rollout_scores("reach", "subgoal", dict.fromkeys(names, 0.5))
    found = spans(scatter(correlate(scores)[0][0], Palette(names), "s"), names)
    assert len(found) == 5
    for i, a in enumerate(found):
        for b in found[i + 1 :]:
            assert a[1] <= b[0] or b[1] <= a[0] or abs(a[2] - b[2]) >= 9


def test_the_first_figure_joins_the_cells_with_a_legend_of_each() -> None:
    panels, _ = correlate(all_scores())
    svg = joined(panels, PALETTE, "g")
    for panel in panels:
        assert f">{panel.task}, " in svg
    assert all(PALETTE[name] in svg for name in ENCODERS)


def test_heads_without_an_interval_are_drawn_without_one() -> None:
    (panel, *_), _ = correlate(all_scores())
    bare = replace(panel, points=tuple(Point(replace(p.probe, ci95=None), p.success) for p in panel.points))
    assert scatter(bare, PALETTE, "s") != scatter(panel, PALETTE, "s")
