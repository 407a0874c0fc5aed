"""The page of a whole probe suite: every figure that the paper has, ours in it, nothing empty."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from lary_policy.errors import ShapeError
from lary_policy.report.bundle import ReportBundle
from lary_policy.report.figures.attention import attention, covering_maps
from lary_policy.report.figures.datasets import MAX_NAMES, composition
from lary_policy.report.page import render_html
from lary_policy.report.paper.tables import paper_number
from lary_policy.report.parts import Composition
from lary_policy.report.tables import MAX_COLUMNS, probe_tables

from .suite_page import attention_of, picture, suite_bundle


@pytest.fixture(scope="module")
def bundle() -> ReportBundle:
    return suite_bundle()


@pytest.fixture(scope="module")
def page(bundle, tmp_path_factory) -> str:
    return render_html(bundle, tmp_path_factory.mktemp("media"))


def figures(page: str, heading: str) -> list[str]:
    """Return the figures below a heading of the page."""
    part = page.split(f">{heading}</h2>")[1].split("<h2")[0]
    return re.findall(r"<figure.*?</figure>", part, re.DOTALL)


@pytest.mark.parametrize(
    ("heading", "least"),
    [
        ("What the datasets are made of", 5),  # appendix figures 1 and 2
        ("All encoders side by side", 4),  # figure 4
        ("Strides", 3),  # table 6
        ("Sizes of the codebook", 6),  # tables 3 to 5
        ("The long tail", 2),  # figure 5
        ("People and robots", 4),  # figure 7
        ("Where class heads look", 4),  # figure 6, appendix figures 8 to 11
    ],
)
def test_every_figure_of_the_paper_is_drawn(page, heading, least):
    drawn = figures(page, heading)
    assert len(drawn) >= least
    assert all(figure.count("<svg") == 1 and len(figure) > 2000 for figure in drawn)


def test_trajectories_and_every_table_are_there(page):
    assert "Predicted and true actions" in page
    for number in range(1, 7):
        assert f"<h3>Table {number}: " in page


def test_a_page_on_files_asks_nothing_about_a_closed_loop(page):
    assert "whose latents tell more about actions?" in page
    assert "closed loop" not in page
    assert "closed-loop" not in page
    assert "No video" not in page


def test_nothing_overlaps_in_narrow_tables(bundle):
    tables = probe_tables(bundle.scores, {})
    assert {table.title for table in tables} >= {
        "agibotbeta, inverse model, lary, mlp4096-flatten, val",
        "agibotbeta, inverse model, native, mlp512-attentive16x64, test",
    }
    assert {len(table.columns) for table in tables} == {4, 7}
    assert all(len(set(table.encoders)) == len(table.columns) for table in tables)
    few = [
        s for s in bundle.scores if s.encoder in ("vjepa2-large", "dinov3-large") and s.protocol == "native"
    ]
    assert all(len(table.columns) <= MAX_COLUMNS for table in probe_tables(few))


def test_only_numbers_on_the_same_samples_compete(bundle):
    two = [s for s in bundle.scores if s.encoder == "vjepa2-large" and s.task == "libero"]
    (table,) = probe_tables(two, {})
    assert table.columns == ("vjepa2-large · val · lary", "vjepa2-large · test · native")
    assert {number.mark for row in table.rows for number in row.numbers} == {""}


def test_faults_stand_at_the_numbers_of_lary_in_tables_and_figures(bundle, page):
    tables = probe_tables(bundle.scores, {"wan2.2-vae": "wan2-2"})
    faults = {
        (table.title.split(", ")[2], column): number.faults
        for table in tables
        if table.title.startswith("calvin")
        for row in table.rows
        for column, number in zip(table.columns, row.numbers, strict=True)
    }
    assert faults["lary", "wan2.2-vae"] == ("D1", "D7", "D9", "D10", "D11")
    assert faults["lary", "vjepa2-large"] == ("D7", "D9", "D10", "D11")
    assert faults["native", "wan2.2-vae"] == ()
    assert '<span class="faults">D1 D7 D9 D10 D11</span>' in page
    lary, native = (
        [f for f in figures(page, "Strides") if f"VLABench, {p}" in f] for p in ("lary", "native")
    )
    assert all("Reproduces D1, D3, D7" in figure for figure in lary)
    assert not any("Reproduces" in figure for figure in native)
    assert page.index("<strong>D1</strong>") < page.index("<strong>D10</strong>")
    simulated = probe_tables(bundle.scores)
    assert not any(n.faults for table in simulated for row in table.rows for n in row.numbers)


def test_figure_4_fills_what_the_tables_leave_out(bundle):
    (score,) = [
        s for s in bundle.scores
        if (s.encoder, s.task, s.protocol, s.metric) == ("vjepa2-large", "agibotbeta", "lary", "mse")
    ]  # fmt: skip
    assert paper_number(score, "dinov3-cs64-sl16-dim32") == 0.81
    assert paper_number(score, "magvit2") == 0.83  # the table's, not the figure's
    human = replace(score, task="human_1st", metric="top1", target="class", head="attentive768x4")
    assert paper_number(human, "dinov3-cs256-sl16-dim32") == pytest.approx(0.6449)


@pytest.mark.parametrize(
    ("frames", "maps", "covering"),
    [
        (9, 9, [*range(9)]),
        (9, 8, [*range(8), None]),
        (9, 4, [0, 0, 1, 1, 2, 2, 3, 3, None]),  # V-JEPA 2 as the reference feeds it
        (9, 5, [0, 0, 1, 1, 2, 2, 3, 3, 4]),  # with its last frame twice
        (9, 3, [0, 1, 1, 1, 1, 2, 2, 2, 2]),  # Wan 2.2
        (2, 2, [0, 1]),
        (2, 1, [0, 0]),
        (8, 3, [0, 0, 0, 1, 1, 1, 2, 2]),
    ],
)
def test_maps_lie_over_the_frames_they_cover(frames, maps, covering):
    assert covering_maps(frames, maps) == covering


def test_attention_is_drawn_into_the_frames():
    """Where the weight is, the picture changes; a frame without a map stays as it was."""
    with_maps = attention(attention_of("e", 8, 4, 9), "a")
    images = re.findall(
        r'xlink:href="data:image/png;base64,([^"]+)"|href="data:image/png;base64,([^"]+)"', with_maps
    )
    assert len(images) == 9
    assert len({"".join(pair) for pair in images}) == 9
    flat = attention(attention_of("e", 8, 4, 9, flat=True), "a")
    assert flat.count("data:image/png") == 9
    bare = attention(replace(attention_of("e", 8, 4, 9), frames=()), "a")
    assert bare.count("data:image/png") == 8


def test_long_lists_of_classes_end_in_the_rest():
    many = MAX_NAMES + 10
    made_of = Composition("t", "lary", "class", ("train",), tuple(map(str, range(many))), ((1,),) * many)
    drawing = composition(made_of, "c")
    assert "11 others together" in drawing
    with pytest.raises(ShapeError, match="class, robot, collection"):
        replace(made_of, kind="colour")


def test_pictures_differ():
    assert picture(0) != picture(3)
    assert np.isfinite(np.array(attention_of("e", 2, 2, 2).weights)).all()
