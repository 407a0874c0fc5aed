"""MetaWorld for LeRobot: its demonstrations as a dataset; one checkpoint through both closed loops."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.configs.default import EvalConfig
from lerobot.configs.eval import EvalPipelineConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies import make_policy, make_pre_post_processors
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.scripts.lerobot_eval import eval_main
from lerobot.utils.constants import ACTION, OBS_STATE

pytest.importorskip("metaworld")

from lary_envs import families, open_world, task_spec
from lary_envs.gym import LaryMetaWorldEnv
from lary_policy.cli import main
from lary_policy.data.simulated import FIRST_SEED

TASK, PX, CHUNK, STEPS = "metaworld/reach-v3", 32, 5, 70
SEED = FIRST_SEED["rollout"]


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch):
    monkeypatch.setattr("sys.argv", ["x"])  # LeRobot's configs read it again


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random ACT that always goes to where the second episode has its goal."""
    folder = tmp_path_factory.mktemp("act")
    sim = open_world(TASK, 1, image_px=16)
    sim.reset([SEED + 1])
    goal = torch.cat([sim.state()["goal_pos"][0], torch.tensor([1.0])])
    sim.close()
    config = ACTConfig(
        pretrained_backbone_weights=None, device="cpu", push_to_hub=False, use_vae=False, dim_model=16,
        n_heads=2, dim_feedforward=16, n_encoder_layers=1, chunk_size=CHUNK, n_action_steps=CHUNK,
    )  # fmt: skip
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["x"])
        policy = make_policy(config, env_cfg=LaryMetaWorldEnv(task="reach-v3", image_px=PX))
    stats = {
        ACTION: {"mean": goal, "std": torch.full((4,), 1e-4)},
        OBS_STATE: {"mean": torch.zeros(4), "std": torch.ones(4)},
    }
    before, after = make_pre_post_processors(config, dataset_stats=stats)
    for part in (policy, before, after):
        part.save_pretrained(folder)
    return folder


def test_both_closed_loops_count_the_same(checkpoint, tmp_path, monkeypatch):
    short = replace(task_spec(TASK), max_steps=STEPS)
    monkeypatch.setitem(families()["metaworld"].specs(), TASK, short)
    arguments = [f"policy={checkpoint}", f"env={TASK}", "episodes=2", "num_worlds=2", "stop_at_success=true"]
    assert main(["rollout", *arguments, f"output_dir={tmp_path}", "run=ours"]) == 0
    rows = json.loads((tmp_path / "ours/rollout.json").read_text())["episodes"]
    config = PreTrainedConfig.from_pretrained(checkpoint)
    config.pretrained_path = checkpoint
    env = LaryMetaWorldEnv(task="reach-v3", image_px=PX)
    evaluation = EvalConfig(n_episodes=2, batch_size=2, use_async_envs=False)
    theirs = tmp_path / "theirs"
    eval_main(EvalPipelineConfig(env=env, eval=evaluation, policy=config, output_dir=theirs, seed=SEED))
    info = json.loads((theirs / "eval_info.json").read_text())["per_task"][0]["metrics"]
    assert info["successes"] == [row["success"] for row in rows] == [False, True]
    assert rows[0]["steps"] == STEPS > rows[1]["steps"]


def test_a_policy_of_other_actions_is_refused_before_its_weights_are_read(checkpoint, tmp_path, capsys):
    assert main(["rollout", f"policy={checkpoint}", "env=reach", f"output_dir={tmp_path}"]) == 2
    assert "actions of 4 numbers, which the policy was trained for; got 7 numbers of reach" in (
        capsys.readouterr().err
    )


def test_demonstrations_become_a_dataset_of_lerobot(tmp_path):
    settings = ["cameras=[front,wrist]", f"image_px={PX}", "demos={train: 2, val: 1, test: 1}", "video=false"]
    out = tmp_path / "reach"
    command = ["data", "to-lerobot", f"env={TASK}", *settings, "split=train", f"out={out}"]
    assert main([*command, f"output_dir={tmp_path}"]) == 0
    data = LeRobotDataset("local/reach", root=out)
    assert (data.fps, data.num_episodes) == (80, 2)
    row = data[0]
    assert row["observation.images.wrist"].shape == (3, PX, PX)
    assert row[ACTION].shape == row[OBS_STATE].shape == (4,)
    assert data.meta.features[ACTION]["names"] == ["x", "y", "z", "gripper"]
    assert row["task"] == "Reach a goal position"
