"""Questions: found by scanning, answered on one tiny suite, right on latents whose answers are known."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lary_policy.actions import load_embodiment
from lary_policy.cli.compose import compose
from lary_policy.data.simulated.scene import read_scene
from lary_policy.errors import DatasetError, HeadMismatchError, UnknownNameError
from lary_policy.heads.config import list_head_configs, load_head_config
from lary_policy.latents import Components
from lary_policy.runs.config import run_config
from lary_policy.runs.questions import ProbeConfig, find_question, list_questions
from lary_policy.runs.questions.critical import critical_steps
from lary_policy.runs.questions.invariance import invariance_terms
from lary_policy.runs.questions.state import varying

NEW = (
    "{mode:state,target:state,head:mlp-small}",
    "{mode:forward,target:relative,head:mlp-small}",
    "{mode:inverse-critical,target:absolute,head:mlp-small}",
    "{mode:policy-critical,target:relative,head:mlp-small,proprio:true}",
    "{mode:invariance,target:looks,head:none}",
)


@pytest.fixture(scope="module")
def answered(tiny, suite_settings):
    """The tiny suite with the new questions; its own heads are not trained again."""
    before = {p: t for p, t in tiny.snapshot().items() if p.startswith("probe/")}
    usual = next(one for one in suite_settings if one.startswith("probes=")).removesuffix("]")
    outcome = tiny.run(f"{usual},{','.join(NEW)}]", "run=questions")
    after = tiny.snapshot()
    assert all(after[path] == when for path, when in before.items())
    return {row["mode"]: row for row in outcome.results.probe}


def test_every_question_is_found_and_unknown_ones_are_named():
    assert {"pair", "policy", "atomic", "composite", "state", "forward", "invariance"} <= set(
        list_questions()
    )
    with pytest.raises(UnknownNameError, match="inverse-critical"):
        find_question("critical")
    with pytest.raises(UnknownNameError, match="absolute"):
        ProbeConfig("state", "absolute", "mlp-small")


def test_a_run_takes_the_heads_that_fit_its_question_and_names_them_for_others():
    """Before anything is computed: all configurations of configs/head by all questions of a run."""
    plain = run_config(compose("suite", ["rollouts=[]"]))
    for (mode, question), head in itertools.product(list_questions().items(), list_head_configs()):
        if question.asks is None:
            continue
        asked = replace(plain, probes=(ProbeConfig(mode, question.every_target[0], head),))
        fitting = list_head_configs(question.asks)
        if head in fitting:
            (found,) = asked.probes_for("native", (question.about,), question.kind)
            assert found.head.model == load_head_config(head).model
        else:
            with pytest.raises(HeadMismatchError, match=", ".join(fitting)):
                asked.probes_for("native", (question.about,), question.kind)


def test_new_questions_answer_with_intervals_and_samples(answered):
    wanted = {"state": "r2", "forward": "gain", "inverse-critical": "mse", "policy-critical": "mse"}
    for mode, metric in {**wanted, "invariance": "invariance"}.items():
        row = answered[mode]
        assert metric in [s["metric"] for s in row["scores"]], mode
        (found,) = row["samples"].values()
        assert len(found["values"]) == len(set(found["items"])) > 0
    distance = [s for s in answered["state"]["scores"] if s["metric"] == "rmse_cm/goal_pos"]
    assert 0 < distance[0]["value"] < 100  # a goal on the table


def test_critical_error_is_that_of_the_same_head_on_some_steps(answered):
    plain = next(s for s in answered["pair"]["scores"] if s["metric"] == "mse")
    critical = {s["metric"]: s["value"] for s in answered["inverse-critical"]["scores"]}
    low, high = sorted(critical.values())
    assert low <= plain["value"] <= high  # a mean over all steps lies between those of both parts


def test_scene_is_what_was_recorded_and_its_absence_is_named(tiny, tmp_path):
    root = next(p for p in (tiny.output_dir / "cache" / "data").glob("reach-*") if "goals" not in p.name)
    from lary_policy.data.simulated import SimulatedSource

    source = SimulatedSource(data_dir=root)
    table = source.pairs("test")
    scene = source.scene("test", table.rows)
    raw = json.loads((root / f"scene/ep_{table.rows[0].episode}.json").read_text())
    goal = next(g for g in scene.layout.groups if g.name == "goal_pos")
    assert scene.state[0, goal.place].tolist() == pytest.approx(raw["state"]["goal_pos"][0])
    assert scene.critical.any()
    assert not scene.critical.all()
    # The measured tool is the anchor of the row.
    tool = next(g for g in scene.layout.groups if g.name.endswith("_pos") and g.name != "goal_pos")
    assert torch.allclose(scene.state[:, tool.place], table.anchors()[:, :3], atol=1e-5)
    layout, order = varying(scene.layout, scene.state)
    assert sorted(i for g in layout.groups for i in g.indices) == list(range(len(order)))
    (tmp_path / "episodes.json").write_text((root / "episodes.json").read_text())
    with pytest.raises(DatasetError, match="Collect the demonstrations anew"):
        read_scene(tmp_path, table.rows, 5, 20.0)


def test_critical_steps_of_actions_alone():
    arm = load_embodiment("arm7")
    actions, anchors = torch.zeros(2, 5, 7), torch.zeros(2, 7)
    actions[:, :, 0] = torch.arange(1, 6) * 0.02
    actions[1, 3:, 6] = 1.0  # the gripper opens in the fourth step
    actions[0, 4, 0] = actions[0, 3, 0]  # and the arm rests in the last one
    assert critical_steps(actions, anchors, arm).tolist() == [
        [False, False, False, False, True],
        [False, False, True, True, True],
    ]


def test_components_are_those_of_the_singular_value_decomposition():
    seeded = torch.Generator().manual_seed(0)
    latents = torch.randn(40, 300, generator=seeded) * torch.linspace(3, 0.1, 300)
    found = Components.fit(latents, 8)
    _, values, vectors = np.linalg.svd((latents - latents.mean(0)).double().numpy(), full_matrices=False)
    same = np.abs(np.einsum("pd,dp->p", vectors[:8], found.axes.numpy()))
    assert same == pytest.approx(np.ones(8), abs=1e-4)
    assert found.share == pytest.approx((values[:8] ** 2).sum() / (values**2).sum(), rel=1e-4)
    with pytest.raises(DatasetError, match="ignores its input"):
        Components.fit(torch.ones(5, 4))


def test_invariance_is_none_for_equal_looks_and_one_for_looks_that_are_other_states():
    latents = torch.randn(30, 500, generator=torch.Generator().manual_seed(1))
    own, between = invariance_terms(latents, latents)
    assert np.abs(own).max() < 1e-9
    shuffled = torch.roll(latents, 1, 0)
    own, between = invariance_terms(latents, shuffled)
    assert own.sum() / between.sum() == pytest.approx(1, abs=0.02)
