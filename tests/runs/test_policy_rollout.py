"""`lary rollout policy=<folder>`: a checkpoint acts as its probe's head did, by chunks or by steps."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from conftest import SETTINGS
from lerobot.configs import PreTrainedConfig
from lerobot.configs.default import EvalConfig
from lerobot.configs.eval import EvalPipelineConfig
from lerobot.scripts.lerobot_eval import eval_main

from lary_envs.gym.lerobot import LarySimEnv
from lary_policy.cli import main
from lary_policy.policy.modeling_lary import LaryPolicy
from lary_policy.rollout import policy_agent

SHARED = [s for s in SETTINGS if not s.startswith(("tasks", "encoders", "cameras", "image_px"))]
OUTCOME = ("seed", "success", "success_at_end", "steps", "first_success_step", "failure")


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("policies") / "reach"
    settings = [s for s in SETTINGS if not s.startswith(("tasks", "encoders"))]
    command = [
        "policy",
        *settings,
        "encoder=pixels",
        "env=reach",
        f"output_dir={tiny.output_dir}",
        f"out={out}",
    ]
    assert main(command) == 0
    return out


def episodes(checkpoint, folder, *more):
    arguments = ["rollout", f"policy={checkpoint}", "env=reach", f"output_dir={folder}", "run=loop"]
    assert main([*arguments, *SHARED, *more]) == 0
    result = json.loads((folder / "loop" / "rollout.json").read_text())
    assert len(list((folder / "loop").glob("episodes*"))) == ("films=false" not in more)
    return [{name: row[name] for name in OUTCOME} | {"jerk": row["smoothness"]} for row in result["episodes"]]


def test_the_checkpoint_repeats_the_rollout_of_its_probe(tiny, checkpoint, tmp_path, capsys):
    (cell,) = tiny.cells("rollout", "reach-pixels-policy-relative")
    rows = json.loads((cell / "result.json").read_text())["episodes"]
    again = episodes(checkpoint, tmp_path)
    assert "reach: success " in capsys.readouterr().out
    for mine, theirs in zip(again, rows, strict=True):
        assert {name: mine[name] for name in OUTCOME} == {name: theirs[name] for name in OUTCOME}
        assert mine["jerk"] == pytest.approx(theirs["smoothness"], rel=1e-3)


def test_planning_by_steps_is_planning_by_chunks(checkpoint, tmp_path, monkeypatch):
    chunks = episodes(checkpoint, tmp_path / "chunks", "episodes=2")
    monkeypatch.setattr(policy_agent, "_chunk_steps", lambda config: None)
    steps = episodes(checkpoint, tmp_path / "steps", "episodes=2")
    for mine, theirs in zip(steps, chunks, strict=True):
        assert mine["jerk"] == pytest.approx(theirs["jerk"], rel=1e-3)
        assert {n: mine[n] for n in OUTCOME} == {n: theirs[n] for n in OUTCOME}


@pytest.mark.slow  # tests/rollout/test_batch_invariance.py asks the same of a smaller head
def test_batch_invariant_episodes_are_equal_to_the_last_bit_on_any_number_of_worlds(checkpoint, tmp_path):
    """The policy was barely trained (the tiny suite's): such ones amplify what differs between batches."""
    shared = ("episodes=7", "batch_invariant=true")
    one, four, seven = (
        episodes(checkpoint, tmp_path / str(n), *shared, f"num_worlds={n}") for n in (1, 4, 7)
    )
    assert one == four == seven
    assert len({row["jerk"] for row in one}) == 7


def test_batch_invariant_plans_are_those_of_lerobot_eval_one_world_at_a_time(
    checkpoint, tmp_path, monkeypatch
):
    """Every chunk that is planned, to the last bit, and what becomes of the episodes."""
    plans, predict = [], LaryPolicy._predict

    def recorded(policy, batch):
        plans.append(predict(policy, batch))
        return plans[-1]

    monkeypatch.setattr(LaryPolicy, "_predict", recorded)
    shared = ("episodes=2", "batch_invariant=true", "stop_at_success=true", "num_worlds=1", "films=false")
    rows = episodes(checkpoint, tmp_path / "ours", *shared)
    ours, plans[:] = list(plans), []
    monkeypatch.setattr(sys, "argv", ["x"])
    config = PreTrainedConfig.from_pretrained(checkpoint)
    config.pretrained_path = checkpoint
    evaluation = EvalConfig(n_episodes=2, batch_size=1, use_async_envs=False)
    env = LarySimEnv(task="reach", cameras=("front",), image_px=56)
    theirs = tmp_path / "theirs"
    pipeline = EvalPipelineConfig(env=env, eval=evaluation, policy=config, output_dir=theirs, seed=300_000)
    eval_main(pipeline)
    assert len(ours) == len(plans) > 2
    assert all(torch.equal(mine, other) for mine, other in zip(ours, plans, strict=True))
    info = json.loads((theirs / "eval_info.json").read_text())["per_task"][0]["metrics"]
    assert info["successes"] == [row["success"] for row in rows]


def test_what_cannot_be_rolled_out_is_named(checkpoint, tmp_path, capsys):
    def refused(folder, text, *more):
        assert main(["rollout", f"policy={folder}", f"output_dir={tmp_path}", *SHARED, *more]) == 2
        assert text in capsys.readouterr().err

    refused(tmp_path, "no config.json", "env=reach")
    refused(checkpoint, "actions of 7 numbers", "env=handover")
