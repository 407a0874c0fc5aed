"""Everything finished in an output folder: told apart by what can be compared, left out only by name."""

from __future__ import annotations

import json
import shutil

import pytest

from lary_policy.cli.predict import study_for
from lary_policy.cli.run import main
from lary_policy.errors import DatasetError
from lary_policy.paths import read_json
from lary_policy.report import merge_points, read_points
from lary_policy.runs.context import git_revision
from lary_policy.runs.finished import everything_finished


@pytest.fixture(scope="module")
def shifted(shared_copy):
    """The finished suite, and the same encoder and probes driven in worlds of other looks."""
    before = shared_copy.snapshot()
    outcome = shared_copy.run(
        "rollout_randomisation=shifted", "run=shifted", "rollouts=[{mode:policy,target:relative}]"
    )
    made = sorted(set(shared_copy.snapshot()) - set(before))
    return shared_copy, outcome, [name for name in made if not name.startswith("locks/")]


def test_a_shifted_study_shares_all_but_goals_and_loops(shifted):
    made = {name.split("/")[0] for name in shifted[2]}
    assert made <= {"data", "extract", "latents", "rollout"}
    assert all("goals" in name for name in shifted[2] if name.startswith("data/"))
    points = read_points([shifted[1].folder / "points.jsonl.gz"])
    assert {p.origin.setup["rollout_randomisation"] for p in points} == {"shifted"}
    assert all(p.facts["split"].endswith(", shifted") for p in points)


def test_what_cannot_be_compared_is_on_no_page_together(shifted, capsys):
    output = shifted[0].output_dir
    assert main("report", [f"output_dir={output}", "run=all"]) == 0
    page = output / "all" / "report.html"
    said = " ".join(capsys.readouterr().err.split())
    assert "results of other settings cannot be compared with these (rollout_randomisation" in said
    assert "each of these runs has a page of its own" in said
    levels = {row["split"].partition(", ")[2] for row in json.loads((page.parent / "report.json").read_text())
              if row["stage"] == "rollout"}  # fmt: skip
    assert len(levels) == 1
    points = read_points([page.parent / "points.jsonl.gz"])
    assert {p.origin.setup["rollout_randomisation"] for p in points} == {"none", "shifted"}
    assert {(p.view, p.facts["head"]) for p in points} >= {("-", "expert"), ("pixels", "random")}
    assert {p.origin.commit for p in points} == {git_revision()}
    kept, notes = merge_points(points)
    assert {p.origin.setup["rollout_randomisation"] for p in kept} == {"none"}
    assert f"{len(points) - len(kept)} points of" in notes[0]
    with pytest.raises(DatasetError, match="rollout_randomisation none, not train"):
        study_for([page.parent / "points.jsonl.gz"], shifted[0].config("rollout_randomisation=train"))


def test_cells_that_no_run_asks_for_and_lost_runs_are_named(copy):
    (cell, *_) = copy.cells("rollout", "policy")
    stray = cell.with_name(f"{cell.name[:-12]}{'0' * 12}")
    shutil.copytree(cell, stray)
    (first,) = everything_finished(copy.output_dir)
    assert any("1 results under cache are of other cell versions" in w and stray.name in w
               for w in first.results.warnings)  # fmt: skip
    assert {r["commit"] for r in first.results.rollout} == {git_revision()}
    for record in copy.output_dir.glob("*/run.json"):  # other tests may have added runs to the shared suite
        raw = read_json(record)
        raw["config"]["encoders"][0]["name"] = "somebodys_folder:Encoder"
        record.write_text(json.dumps(raw))
    (rest,) = everything_finished(copy.output_dir)
    assert any(w.startswith("Run first cannot be set up again") for w in rest.results.warnings)
    assert rest.origin is None


def test_a_run_with_heads_of_its_own_is_set_up_again(copy):
    asked = "probes=[{mode:pair,target:absolute,head:mlp-small}]"
    copy.run("heads=[mlp-matched]", "run=heads", "rollouts=[]", asked)
    (first, *_) = everything_finished(copy.output_dir)
    assert {"first", "heads"} <= set(first.runs)
    assert {r["head"] for r in first.results.probe} > {"mlp512-project32"}
