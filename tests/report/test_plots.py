from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from lary_policy.report.correlate import correlate
from lary_policy.report.figures import probes as plots
from lary_policy.report.parts import Confusion, Trajectory

from .synthetic import ENCODERS, all_scores, confusions, trajectories

COLOURS = plots.encoder_colours(ENCODERS)
EVIL = '<script>alert("x")</script> $\\frac{1}{0}$ & co'


def figures() -> list[str]:
    panel = correlate(all_scores())[0][0]
    members = [t for t in trajectories() if t.task == "reach"]
    return [
        plots.scatter(panel, COLOURS, "s0"),
        plots.trajectory(members, 0, COLOURS, "t0"),
        plots.confusion(confusions()[0], COLOURS["pixels"], "c0"),
    ]


@pytest.mark.parametrize("svg", figures())
def test_svg_is_well_formed_and_carries_no_address(svg: str) -> None:
    ET.fromstring(svg)
    assert svg.startswith("<svg viewBox=")
    assert "http" not in svg
    assert "<metadata" not in svg
    assert plots.INK not in svg
    assert "currentColor" in svg


def test_ids_of_two_figures_never_meet() -> None:
    panel = correlate(all_scores())[0][0]
    first, second = (plots.scatter(panel, COLOURS, name) for name in ("a", "b"))
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, own in zip((first, second), ids, strict=True):
        used = set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg))
        assert used <= own


def test_scatter_draws_each_encoder_once_in_its_colour() -> None:
    panel = correlate(all_scores())[0][0]
    svg = plots.scatter(panel, COLOURS, "s")
    for name, colour in COLOURS.items():
        assert f">{name}</text>" in svg
        assert colour in svg


def test_trajectory_follows_its_numbers() -> None:
    """The predicted line of a constant offset lies above the true one on the page (smaller y in SVG)."""
    true = np.zeros((5, 1))
    member = Trajectory("pixels", "reach", "pair", "relative", "1", ("x",), true, true + 1.0, ("m",))  # type: ignore[arg-type]
    svg = plots.trajectory([member], 0, COLOURS, "t")
    lines = re.findall(r'<path d="M [\d.]+ ([\d.]+)[^"]*" clip-path[^>]*style="[^"]*stroke: ([^;"]+)', svg)
    heights = {colour: float(y) for y, colour in lines}
    assert heights[COLOURS["pixels"]] < min(y for c, y in heights.items() if c == "currentColor")
    assert "x (m)" in svg


def test_confusion_prints_counts_only_when_few_classes() -> None:
    few = Confusion("pixels", "reach", ("a", "b"), ((731, 2), (0, 0)))
    assert ">731</text>" in plots.confusion(few, "#0b7fc4", "c")
    many = tuple(f"k{i}" for i in range(28))
    counts = tuple(tuple(731 * int(i == j) for j in range(28)) for i in range(28))
    svg = plots.confusion(Confusion("pixels", "reach", many, counts), "#0b7fc4", "c")
    assert "731" not in re.sub(r"<path[^>]*>", "", svg)
    assert ">k27</text>" in svg


def test_names_are_escaped_and_never_read_as_formulas() -> None:
    matrix = Confusion("pixels", "reach", (EVIL, "b"), ((1, 0), (0, 1)))
    svg = plots.confusion(matrix, "#0b7fc4", "c")
    assert "<script" not in svg
    texts = ["".join(node.itertext()) for node in ET.fromstring(svg).iter("text")]
    assert texts.count(EVIL) == 2


def test_colours_are_stable_and_cover_any_number_of_encoders() -> None:
    names = [f"e{i}" for i in range(20)]
    colours = plots.encoder_colours(names)
    assert list(colours) == names
    assert len({colours[n] for n in names[: len(plots.PALETTE)]}) == len(plots.PALETTE)
