"""The one report of all sources: what was finished is on the page, what was not is named."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from finished_cells import extracted, of_files, probed, simulated

from lary_policy.cli.run import main
from lary_policy.errors import ConfigError
from lary_policy.report import read_points
from lary_policy.runs.context import STAGE_VERSIONS
from lary_policy.runs.report import report_bundle, run_report
from lary_policy.runs.results import Results

NAMES = {"title": "t", "suite": "s"}


def headings(path: Path) -> list[str]:
    return [re.sub("<[^>]+>", "", h) for h in re.findall(r"<h[12][^>]*>(.*?)</h[12]>", path.read_text())]


def test_every_score_of_a_simulated_run_is_written(tmp_path):
    results = simulated()
    page = run_report(results, tmp_path, **NAMES)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written == [s.to_dict() for s in results.scores()]
    assert len(written) == 6
    assert {"Closed loop", "Probe scores", "Videos"} <= set(headings(page))
    assert "What the datasets are made of" not in headings(page)


def test_a_run_on_files_is_asked_nothing_about_a_closed_loop(tmp_path):
    page = run_report(of_files(), tmp_path, **NAMES)
    assert not {"Closed loop", "Videos", "Probe score against success"} & set(headings(page))
    assert "The paper's numbers and ours" in headings(page)
    assert "28" in page.read_text()


def test_what_is_set_aside_in_any_stage_is_listed_once():
    bundle = report_bundle(simulated(), **NAMES)
    assert [q.item for q in bundle.quarantined] == ["episode 3", "ep_3/frame_1.png"]
    assert bundle.inputs_checked == 200
    assert next((f.encoder, f.failure, f.seeds) for f in bundle.failures) == (
        "pixels", "non_finite_action", (300_000,)
    )  # fmt: skip
    assert [c.encoder for c in bundle.codebooks] == ["pixels"]
    assert bundle.stage_seconds == {"data": 5.0, "extract": 4.0, "probe": 6.0, "rollout": 16.0}
    missing = "reach, protocol native, split train: 58 of 60 rows used; left out: 2 with a disturbance inside"
    assert any(note.startswith(missing) for note in bundle.notes)


def test_heads_asked_the_same_are_told_apart_by_what_differs():
    views = [probed("pixels", 0.5), probed("pixels@168px", 0.4)]
    assert {t.task for t in report_bundle(Results(probe=views), **NAMES).trajectories} == {"reach"}
    seeds = [probed("pixels", 0.5, seed=s) for s in (0, 1)]
    found = report_bundle(Results(probe=seeds), **NAMES).trajectories
    assert [t.task for t in found] == ["reach (seed 0)", "reach (seed 1)"]
    both = report_bundle(of_files(), **NAMES)
    assert [c.task for c in both.confusions] == ["libero (native)", "libero (lary)"]


def test_the_page_is_rewritten_while_cells_finish(tmp_path):
    results = Results()
    with pytest.raises(ConfigError, match="finished: nothing"):
        run_report(results, tmp_path, **NAMES)
    assert list(tmp_path.iterdir()) == []
    results.extract.append(extracted("pixels"))
    assert "No probe was trained" in run_report(results, tmp_path, **NAMES).read_text()
    results.probe.append(probed("pixels", 0.5))
    assert "No probe was trained" not in run_report(results, tmp_path, **NAMES).read_text()


def test_a_report_of_finished_cells_needs_a_number(tmp_path):
    """Demonstrations alone, of encoders that were never run, are no report."""
    results = replace(simulated(), probe=[], rollout=[], finished_only=True)
    assert not results.wants("probe reach-pixels", done=False)
    with pytest.raises(
        ConfigError, match=r"1 of stage data, 2 of stage extract, not finished: probe reach-pix"
    ):
        run_report(results, tmp_path, **NAMES)
    assert list(tmp_path.iterdir()) == []
    some = replace(simulated(), finished_only=True, unfinished=["rollout reach-lapa"])
    text = run_report(some, tmp_path, **NAMES).read_text()
    assert "Not finished, so not on this page: rollout reach-lapa." in text


def test_what_an_evaluation_warns_of_stands_before_the_numbers(tmp_path):
    warned = probed("pixels", 0.9, warnings=["The head predicts little but the mean action."])
    page = run_report(Results(probe=[warned, probed("lapa", 0.4)]), tmp_path, **NAMES).read_text()
    words = "reach, pixels, pair, relative, mlp512-project32: The head predicts little but the mean action."
    assert page.index(words) < page.index("Test MSE (lower is better). In brackets")
    assert page.count("predicts little but") == 1


def test_a_number_without_an_interval_is_shown_as_such(tmp_path):
    lone = probed("pixels", 0.5)
    lone["scores"][0] |= {"ci95": None, "clusters": 1, "no_interval": "one recording"}
    page = run_report(Results(probe=[lone, probed("lapa", 0.4)]), tmp_path, **NAMES).read_text()
    assert "not estimable: one recording" in page
    rows = (tmp_path / "report.csv").read_text().splitlines()
    assert [row.split(",")[-2:] for row in rows][:2] == [["ci95_low", "ci95_high"], ["", ""]]


def test_episodes_of_closed_loops_are_paired(tmp_path):
    bundle = report_bundle(simulated(), **NAMES)
    rates = [m for m in bundle.measured if m.score.metric == "success"]
    assert [m.score.encoder for m in rates] == ["pixels", "dinov2-small", "-", "pixels"]
    assert rates[1].samples.values == (1.0, 1.0, 1.0, 0.0)
    assert [v.reference for v in bundle.videos] == [False, False, True, True]


def test_a_film_says_which_episodes_it_shows():
    """Of a run that was interrupted, the film shows the episodes after the interruption."""
    results = simulated()
    results.rollout[0]["filmed"] = [300_002, 300_003]
    first, second, *_ = report_bundle(results, **NAMES).videos
    assert (first.seeds, first.successes) == ((300_002, 300_003), (False, False))
    assert len(second.seeds) == 4


def test_the_scripted_expert_is_shown_once_a_task():
    results = simulated()
    results.rollout.append({**results.rollout[2], "mode": "policy"})
    results.rollout[-1]["scores"] = [{**s, "mode": "policy"} for s in results.rollout[2]["scores"]]
    assert [v.caption.count("expert") for v in report_bundle(results, **NAMES).videos] == [0, 0, 1, 0]


def test_constant_dimensions_are_named_instead_of_drawn(tmp_path):
    page = run_report(Results(probe=[probed("pixels", 0.5)]), tmp_path, **NAMES).read_text()
    assert "Constant in training, so not drawn: gripper." in page
    assert ">gripper</text>" not in page
    assert ">yaw (rad)</text>" in page


def test_the_first_table_can_be_pasted(tmp_path):
    run_report(simulated(), tmp_path, **NAMES)
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert lines[0] == "|  | pixels | dinov2-small | scripted expert | random head |"
    assert len(lines) == 3
    assert lines[2].startswith("| reach, relative targets, subgoal mode | 25 % [")


def test_points_of_finished_runs_make_one_page(tiny, tmp_path):
    """What a run leaves for others to add to is what `lary report points=[...]` puts together."""
    written = tiny.outcome.folder / "points.jsonl.gz"
    points = read_points([written])
    loops, who = ("subgoal", "policy"), {"-": "expert", "pixels": "random"}
    assert {(p.view, p.loop, p.facts["head"]) for p in points} == {
        *(("pixels", loop, "mlp512-project32") for loop in loops),
        *((view, loop, head) for view, head in who.items() for loop in loops),
    }
    assert all(
        ({"policy_mse", "pair_mse"} <= set(p.proxies)) == (p.facts["head"] not in who.values())
        for p in points
    )
    assert points[0].origin.versions == STAGE_VERSIONS
    assert points[0].origin.setup["demos"]["train"] == 6
    assert all(0 <= v <= 1 for v in points[0].outcomes["speed"])
    main("report", [f"points=[{written},{written}]", f"output_dir={tmp_path}", "run=both"])
    again = read_points([tmp_path / "both" / "points.jsonl.gz"])
    assert [p.to_json() for p in again] == [p.to_json() for p in points]
    assert "pixels" in (tmp_path / "both" / "report.html").read_text()
    with pytest.raises(ConfigError, match="list of files"):
        main("report", [f"points={written}"])
