"""The paper's numbers as shipped, and ours in the same cells."""

from __future__ import annotations

import pytest
from markupsafe import escape

from lary_policy.errors import ShapeError
from lary_policy.report.bundle import ReportBundle
from lary_policy.report.figures.ablations import codebook_curves, stride_curves
from lary_policy.report.page import render_html
from lary_policy.report.paper.defects import DEFECTS, defects_of
from lary_policy.report.paper.tables import (
    paper_gap,
    paper_number,
    paper_source,
    paper_tables,
    reproduced,
    side_by_side,
)
from lary_policy.report.parts import Attention, ClassTail, HeadInfo
from lary_policy.scores.score import Score

MLP, PROBE = "mlp4096-flatten", "attentive768x4"


def score(task: str, value: float, **changes) -> Score:
    classes = task in ("libero", "human_1st", "robot_1st")
    fields = {
        "stage": "probe", "encoder": "vjepa2-large", "head": PROBE if classes else MLP, "embodiment": "-",
        "task": task, "mode": "composite" if classes else "pair",
        "target": "class" if classes else "absolute", "metric": "top1" if classes else "mse",
        "value": value, "ci95": (value, value), "n": 9, "split": "val", "seed": 0, "protocol": "lary", 
        "fingerprint": "f", "seconds": 1.0,
    }  # fmt: skip
    return Score(**{**fields, **changes})


def paper_table(name):
    return next(table for table in paper_tables() if table.name == name)


def head(encoder: str = "vjepa2-large", key: str = "vjepa2", **changes) -> HeadInfo:
    fields = {"task": "calvin", "protocol": "lary", "head": MLP, "target": "absolute", "num_params": 123456}
    rest = {"best_epoch": 3, "lr": 1e-4, "weight_decay": 0.1, "statistics": "", "seconds": 1.0, "seed": 0}
    return HeadInfo(encoder=encoder, reference_key=key, **{**fields, **rest, **changes})


def test_all_six_tables_are_there_with_their_source():
    assert [t.name for t in paper_tables()] == [f"Table {i}" for i in range(1, 7)]
    assert "2604.11689" in paper_source()
    for table in paper_tables():
        assert all(len(row.values) == len(table.columns) for row in table.rows)


@pytest.mark.parametrize("name", ["Table 1", "Table 2", "Table 6"])
def test_printed_averages_are_those_of_the_cells(name):
    """A slip in copying would show; UniVLA's accuracy is off in the paper itself."""
    table = paper_table(name)
    place = table.columns.index("average")
    for row in table.rows:
        cells = [v for i, v in enumerate(row.values) if i != place]
        expected = 18.75 if (name, row.model) == ("Table 1", "UniVLA") else row.values[place]
        tolerance = 0.011 if name == "Table 1" else 0.0101
        assert sum(cells) / len(cells) == pytest.approx(expected, abs=tolerance), row.model


def test_tables_agree_where_they_share_cells():
    for row in paper_table("Table 6").rows:
        assert paper_table("Table 2").value(row.reference_key, "vlabench") == row.values[0]
    shared = [paper_table(f"Table {i}").value("dinov3-cs64-sl49-dim256", "agibotbeta") for i in (3, 4, 5)]
    assert shared == [0.83] * 3


def test_a_score_finds_its_number_and_only_its_number():
    assert paper_number(score("calvin", 0.3), "vjepa2") == 0.27
    assert paper_number(score("libero", 0.5, mode="atomic"), "vjepa2") == pytest.approx(0.7909)
    assert paper_number(score("vlabench_30", 0.3), "wan2-2") == 0.24
    assert paper_number(score("agibotbeta", 0.3), "dinov3-cs64-sl64-dim256") == 0.72
    assert paper_number(score("human_1st", 0.3), "dinov3-cs64-sl64-dim256") == pytest.approx(0.7137)
    for other in (
        score("calvin", 0.3, target="relative"),
        score("calvin", 0.3, head="mlp512-project32"),
        score("robocoin", 0.3, split="unseen"),
        score("calvin", 0.3, metric="mse/position"),
        score("reach", 0.3),
    ):
        assert paper_number(other, "vjepa2") is None
    assert paper_number(score("calvin", 0.3), None) is None


def test_ours_stand_in_the_papers_cells_with_the_faults_they_reproduce():
    scores = (score("calvin", 0.31), score("calvin", 0.29, protocol="native", split="test"))
    (table,) = side_by_side(scores, [head()])
    assert (table.table.name, table.measured) == ("Table 2", 1)
    (line,) = [line for line in table.lines if line[1]]
    cell = line[2][table.table.columns.index("calvin")]
    assert cell.paper == "0.27"
    assert [(o.protocol, o.value) for o in cell.ours] == [("lary", "0.31"), ("native", "0.29")]
    assert cell.ours[0].defects == ("D7", "D9", "D10", "D11")
    assert cell.ours[1].defects == ()


@pytest.mark.parametrize(
    ("name", "task", "key", "changes"),
    [
        ("D1", "calvin", "wan2-2", {}),
        ("D2", "libero", "flux2", {}),
        ("D3", "calvin", "lapa", {}),
        ("D3", "calvin", "dinov3-cs64-sl49-dim256", {}),
        ("D4", "human_1st", "vjepa2", {}),
        ("D5", "robocoin", "vjepa2", {}),
        ("D7", "agibotbeta", "vjepa2", {"split": "seen_val"}),
        ("D8", "vlabench_30", "vjepa2", {}),
        ("D9", "calvin", "vjepa2", {}),
        ("D10", "calvin", "vjepa2", {}),
        ("D11", "agibotbeta", "vjepa2", {}),
        ("D13", "calvin", "dinov2-origin", {}),
    ],
)
def test_each_fault_is_named_at_the_numbers_it_changes(name, task, key, changes):
    assert name in {d.name for d in defects_of(score(task, 0.3, **changes), key)}
    assert defects_of(score(task, 0.3, protocol="native", **changes), key) == ()


def test_faults_are_left_out_where_they_change_nothing():
    assert {d.name for d in defects_of(score("human_1st", 0.3), "wan2-2")} == {"D7"}
    unseen = score("robocoin", 0.3, split="unseen", target="displacement", head="mlp512-attentive")
    assert {d.name for d in defects_of(unseen, "univla")} == {"D5", "D11"}
    assert len(reproduced([score("calvin", 0.3)], [head()])) == 4
    assert len({d.name for d in DEFECTS}) == len(DEFECTS)


def test_strides_form_curves_with_the_papers_beside_them():
    scores = [score(task, v) for task, v in (("vlabench", 0.1), ("vlabench_15", 0.2), ("calvin", 0.3))]
    (figure,) = stride_curves(scores, {"vjepa2-large": "vjepa2"})
    assert [s.task for s in figure.lines["vjepa2-large"]] == ["vlabench", "vlabench_15"]
    assert figure.paper["vjepa2-large"] == {5.0: 0.07, 15.0: 0.13}
    assert stride_curves(scores[1:], {}) == ()


def test_sizes_of_the_codebook_form_curves():
    runs = {f"lapa-dinov3:cs64-sl49-dim{d}": f"dinov3-cs64-sl49-dim{d}" for d in (64, 256)}
    scores = [score("agibotbeta", 0.8, encoder=name, split="seen_val") for name in runs]
    (figure,) = codebook_curves(scores, runs)
    assert figure.label == "width of a code"
    (line,) = figure.lines
    assert figure.paper[line] == {64.0: 0.83, 256.0: 0.83}


def tail(task: str, f1: tuple[float, ...] = (0.5, 0.2, 0.0)) -> ClassTail:
    return ClassTail(
        "vjepa2-large", task, "lary", PROBE, ("place", "pick", "reach"), (90, 9, 3), (9, 5, 2), f1
    )


def test_the_page_draws_tail_gap_curves_and_attention(tmp_path):
    scores = tuple(score(t, 0.3) for t in ("vlabench", "vlabench_15", "human_1st", "robot_1st"))
    weights = [[[1.0, 0.5], [1.5, 1.0]]] * 9
    bundle = ReportBundle(
        "t", "s", scores, heads=(head(),), closed_loop=False,
        tails=(tail("human_1st"), tail("robot_1st", (0.4, 0.3, 0.1))),
        attention=(Attention("vjepa2-large", "human_1st", "lary", "pour <b>", "place", weights),),
    )  # fmt: skip
    page = render_html(bundle, tmp_path)
    for words in (
        "Table 1:",
        "Table 6:",
        "Long tail: human_1st",
        "People and robots: vjepa2-large",
        "VLABench,",
    ):
        assert words in page
    assert "Rings: figure 7 of the paper." in page
    assert escape("'pour <b>'") in page
    assert "123,456" in page  # parameters of the head
    assert "<strong>D9</strong>" in page


def test_pages_of_simulated_runs_say_nothing_of_the_paper(tmp_path):
    assert "paper" not in render_html(ReportBundle("t", "s", (score("reach", 0.3),)), tmp_path)


def test_broken_parts_are_refused():
    with pytest.raises(ShapeError):
        tail("human_1st", (0.5, 0.2, 1.2))
    with pytest.raises(ShapeError):
        Attention("e", "t", "lary", "a", "b", [[[1.0], [float("nan")]]])


def test_the_papers_gap_is_that_of_its_figure():
    assert paper_gap("vjepa2")["place"] == (0.84, 0.78)
    assert len(paper_gap("lapa")) == 27
    assert paper_gap("none") == {}
