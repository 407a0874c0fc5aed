"""Robots with two arms through all stages, and rollouts that go on where they were interrupted."""

from __future__ import annotations

import dataclasses
import json

import pytest

from lary_policy.actions.embodiment import load_embodiment
from lary_policy.cli.compose import compose
from lary_policy.errors import StoreError, UnknownNameError
from lary_policy.rollout import EpisodeProgress
from lary_policy.runs.config import run_config
from lary_policy.runs.run import SuiteOutcome, run_suite
from lary_policy.types import EpisodeResult

TASKS = {"dual_reach": "arm12", "humanoid_reach": "arm16"}
# No classes: ten chunks of two arms may not hold one class twice.
PROBES = (
    "probes=[{mode:pair,target:absolute,head:mlp-small},"
    "{mode:policy,target:relative,head:mlp-small,proprio:true}]"
)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, suite_settings) -> SuiteOutcome:
    """One run with one task of each two-armed robot."""
    folder = tmp_path_factory.mktemp("two-arms")
    overrides = [f"tasks=[{','.join(TASKS)}]", "cameras=null", f"output_dir={folder}", "run=first", PROBES]
    return run_suite(run_config(compose("suite", [*suite_settings, *overrides])))


@pytest.mark.parametrize("task", sorted(TASKS))
def test_both_modes_run_and_are_scored_in_the_tasks_own_layout(outcome, task):
    scores = [s for s in outcome.results.scores() if s.task == task]
    assert {s.embodiment for s in scores} == {TASKS[task]}
    cells = {(s.encoder, s.mode) for s in scores if s.metric == "success"}
    assert cells == {(e, m) for e in ("-", "pixels") for m in ("subgoal", "policy")}
    expert = [s.value for s in scores if s.head == "expert" and s.metric == "success"]
    assert min(expert) >= 0.75
    groups = {f"mse/{name}" for name in load_embodiment(TASKS[task]).group_indices()}
    assert groups <= {s.metric for s in scores}


def test_labels_of_two_arms_name_the_arm_that_moved(outcome):
    tables = list(
        (outcome.folder.parent / "cache" / "data").glob("dual_reach-*/dual_reach_metadata_train.csv")
    )
    assert tables
    for csv in tables:
        text = csv.read_text()
        assert "left_" in text or "right_" in text


def test_an_interrupted_rollout_goes_on_after_its_last_wave(copy):
    (cell,) = copy.cells("rollout", "reach-pixels-policy-relative-*")
    before = json.loads((cell / "result.json").read_text())
    (cell / "result.json").unlink()
    rows = [EpisodeResult(**row) for row in before["episodes"]]
    kept = [dataclasses.replace(row, steps=7) for row in rows[:2]]
    EpisodeProgress(cell / "episodes.partial.json").write(kept, 12.5)
    copy.run()
    after = json.loads((cell / "result.json").read_text())
    episodes = [EpisodeResult(**row) for row in after["episodes"]]
    assert episodes[:2] == kept  # not run again
    assert [dataclasses.replace(e, smoothness=0.0) for e in episodes[2:]] == [
        dataclasses.replace(e, smoothness=0.0) for e in rows[2:]
    ]
    assert after["seconds"] > 12.5
    assert not list(cell.glob("*.partial.json"))


def test_a_damaged_progress_file_is_named(tmp_path):
    progress = EpisodeProgress(tmp_path / "episodes.partial.json")
    assert progress.read() == ([], 0.0)
    (tmp_path / "episodes.partial.json").write_text("{")
    with pytest.raises(StoreError, match="Delete the file"):
        progress.read()


def test_a_shift_of_the_closed_loop_leaves_demonstrations_and_heads_as_they_are(copy):
    before = copy.snapshot()
    outcome = copy.run("rollout_randomisation=shifted")
    after = copy.snapshot()
    new = {name.split("/")[0] for name, written in after.items() if before.get(name) != written}
    assert new == {"data", "extract", "latents", "rollout"}  # demonstrations to follow, and the loop
    splits = {s.split for s in outcome.results.scores() if s.stage == "rollout"}
    assert splits == {"seeds 300000-300003, shifted"}
    goals = [json.loads(p.read_text()) for p in copy.output_dir.glob("cache/data/*/dataset.json")]
    assert sorted(g.get("randomisation", "none") for g in goals) == ["none", "none", "shifted"]


def test_an_unknown_level_is_refused(settings):
    with pytest.raises(UnknownNameError, match="none, shifted, train"):
        run_config(settings("randomisation=strong"))
