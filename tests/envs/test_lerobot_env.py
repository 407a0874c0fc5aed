"""`lary_sim`: what LeRobot's own commands see of the tasks, and that they count as `lary rollout` does."""

from __future__ import annotations

import ast
import copy
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import draccus
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env, make_env_pre_post_processors
from lerobot.envs.utils import close_envs, env_to_policy_features, preprocess_observation
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.scripts.lerobot_eval import rollout

from lary_envs.controller import EndEffectorController
from lary_envs.env import SimEnv
from lary_envs.gym import lerobot as lerobot_env
from lary_envs.gym.lerobot import ContractFeature, LarySimEnv
from lary_envs.gym.registration import gym_ids
from lary_envs.gym.vector import LaryVectorEnv
from lary_envs.tasks.expert import make_expert
from lary_envs.tasks.spec import list_tasks, task_spec
from lary_policy.actions.contract import ActionContract
from lary_policy.actions.embodiment import load_embodiment
from lary_policy.data.simulated.collect import seeds_of
from lary_policy.errors import ConfigError, EmbodimentError, SimulationError, UnknownNameError
from lary_policy.policy.features import require_env
from lary_policy.rollout.loop import run_episodes

SMALL = {"image_px": 16}


def made(config, n_envs, **options):
    return make_env(config, n_envs=n_envs, **options)["lary_sim"][0]


def test_the_import_registers_the_type_and_loads_no_simulator():
    assert "lary_sim" in EnvConfig.get_known_choices()
    body = ast.parse(Path(lerobot_env.__file__).read_text()).body
    imported = {node.module for node in body if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name.startswith("lary_envs")} == {"lary_envs.gym.registration"}
    assert not imported & {"mujoco", "warp", "torch", "gymnasium.vector"}


@pytest.mark.parametrize("task", list_tasks())
def test_every_task_is_made_by_lerobot_and_gives_what_its_features_say(task):
    cameras = list(task_spec(task).cameras)
    config = LarySimEnv(task=task, cameras=cameras, **SMALL)
    assert config.gym_id == gym_ids()[task]
    env = made(config, 4)
    observation, info = env.reset(seed=list(range(4)), options={"lerobot_new_rollout": True})
    assert info["is_success"].tolist() == [False] * 4
    for _ in range(2):
        observation, reward, terminated, truncated, info = env.step(observation["agent_pos"])
    assert not (terminated | truncated).any()
    assert reward.tolist() == [0.0] * 4
    assert info["is_success"].tolist() == [False] * 4
    seen = {key: tuple(value.shape[1:]) for key, value in preprocess_observation(observation).items()}
    features = env_to_policy_features(config)
    assert {**seen, "action": env.single_action_space.shape} == {k: f.shape for k, f in features.items()}
    assert [k for k, f in features.items() if f.type is FeatureType.VISUAL] == [
        f"observation.images.{name}" for name in cameras
    ]
    assert list(env.call("task_description")) == [task_spec(task).instruction] * 4
    assert env.call("_max_episode_steps")[0] == task_spec(task).max_steps
    assert env.unwrapped.metadata["render_fps"] == config.fps == 20
    close_envs({"lary_sim": {0: env}})


def test_the_action_feature_carries_its_meaning_to_the_policy():
    config = LarySimEnv(task="handover", **SMALL)
    feature = env_to_policy_features(config)["action"]
    assert feature is config.features["action"]
    contract = ActionContract.from_dict(feature.contract)
    assert contract == ActionContract.of(load_embodiment("arm16"), "absolute")
    relative = LarySimEnv(task="handover", action_mode="relative", **SMALL).features["action"].contract
    assert relative["target"] != contract.target
    assert asdict(copy.deepcopy(config)) == asdict(config)


def test_a_policy_of_another_robot_is_refused_by_what_the_feature_carries():
    def policy(embodiment, control_hz=20.0):
        feature = env_to_policy_features(LarySimEnv(task="reach", **SMALL))["action"]
        return SimpleNamespace(
            embodiment=embodiment, control_hz=control_hz, action_feature_names=None, action_dim=None,
            action_feature=feature, image_features={},
        )  # fmt: skip

    require_env(policy("arm7"))
    with pytest.raises(EmbodimentError, match=r"arm12.*arm7"):
        require_env(policy("arm12"))
    with pytest.raises(EmbodimentError, match="control_hz 10"):
        require_env(policy("arm7", control_hz=10.0))


def test_configs_survive_being_written_and_read():
    config = LarySimEnv(task="push", cameras=["front", "wrist"], torch_observations=True, **SMALL)
    written = draccus.encode(config, EnvConfig)
    assert "contract" not in written["features"]["action"]
    read = draccus.decode(EnvConfig, json.loads(json.dumps(written)))
    assert read == config
    assert read.features["action"].contract == config.features["action"].contract
    parsed = draccus.parse(LarySimEnv, args=["--task=push", "--cameras=[front, wrist]", "--image_px=16"])
    assert parsed.features == config.features


def test_a_checkpoint_of_a_policy_made_for_the_env_holds_plain_features(tmp_path):
    config = ACTConfig(pretrained_backbone_weights=None, device="cpu", push_to_hub=False)
    features = env_to_policy_features(LarySimEnv(**SMALL))
    config.output_features = {"action": features["action"]}
    config.input_features = {k: v for k, v in features.items() if k != "action"}
    config.save_pretrained(tmp_path)
    action = ACTConfig.from_pretrained(tmp_path).output_features["action"]
    assert type(action) is PolicyFeature
    assert (action.type, action.shape) == (FeatureType.ACTION, (7,))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"task": "raech"}, UnknownNameError, "reach"),
        ({"cameras": ["top"]}, UnknownNameError, "agent, front, wrist"),
        ({"cameras": ["front", "front"]}, ConfigError, "different cameras"),
        ({"cameras": []}, ConfigError, "one or more"),
        ({"image_px": 0}, SimulationError, "image_px"),
        ({"fps": 30}, ConfigError, "fps=20"),
        ({"features": {"action": PolicyFeature(FeatureType.ACTION, (3,))}}, ConfigError, "derived"),
        ({"torch_observations": True, "batched": False}, ConfigError, "batched"),
    ],
)
def test_bad_options_are_named_at_once(options, error, says):
    with pytest.raises(error, match=says):
        LarySimEnv(**options)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"action_mode": "delta"}, UnknownNameError, "absolute, relative"),
        ({"device": "tpu"}, UnknownNameError, "cuda"),
        ({"randomisation": "much"}, UnknownNameError, "shifted"),
        ({"looks": "shiny"}, UnknownNameError, "primitives"),
        ({"max_episode_steps": 0}, SimulationError, "max_episode_steps"),
        pytest.param(
            {"device": "cuda"}, SimulationError, "CUDA",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)  # fmt: skip
def test_bad_options_of_the_simulation_are_named_before_the_first_episode(options, error, says, batched):
    config = LarySimEnv(batched=batched, **{**SMALL, **options})
    with pytest.raises(error, match=says):
        make_env(config, n_envs=2)


@pytest.mark.parametrize("batched", [True, False])
def test_episodes_start_as_those_of_lary_rollout(batched):
    seeds = seeds_of("rollout", 3)
    look = {"randomisation": "shifted", "cameras": ["wrist", "front"]}
    env = made(LarySimEnv(task="push", batched=batched, image_px=32, **look), 3)
    assert isinstance(env, LaryVectorEnv if batched else SyncVectorEnv)
    observation, _ = env.reset(seed=seeds, options={"lerobot_new_rollout": True})
    sim = SimEnv("push", 3, image_px=32, **look)  # as stages/rollout.py makes it
    sim.reset(seeds)
    cores = [env._core] if batched else [single.unwrapped._core for single in env.envs]
    for name, value in sim.state().items():
        assert torch.equal(torch.cat([core.sim.state()[name] for core in cores]), value), name
    assert torch.equal(torch.cat([core.sim.joints() for core in cores]), sim.joints())
    np.testing.assert_array_equal(observation["agent_pos"], sim.proprio().numpy())
    for camera, frames in zip(look["cameras"], sim.frames().unbind(1), strict=True):
        differing = (observation["pixels"][camera] != frames.numpy()).mean()
        assert differing == 0 if batched else differing < 1e-3  # edge pixels round as the batch does
    env.close()
    sim.close()


class Replay(torch.nn.Module):
    """Plays recorded targets `[s w a]`, to LeRobot as a policy and to `run_episodes` as an agent."""

    needs_frames = False

    def __init__(self, targets):
        super().__init__()
        self.targets = targets
        self.reset()

    def reset(self):
        self.step = 0

    def select_action(self, observation):
        self.step += 1
        return self.targets[self.step - 1]

    def plan(self, observation):
        return self.select_action(observation)[:, None]


def recorded(seeds):
    """Return what the expert does in `reach`, `[s w a]`, spoiled in some worlds."""
    env, controller = SimEnv("reach", len(seeds), image_px=16), EndEffectorController(len(seeds))
    env.reset(seeds)
    controller.reset(env.joints())
    expert, target, targets = make_expert("reach", env), controller.pose(), []
    for _ in range(env.task.max_steps):
        target = expert.act(target).float()
        targets.append(target)
        env.step(controller.command(target))
    actions = torch.stack(targets)
    actions[3:, 1] = float("nan")
    actions[5:, 2, 0] = 3.0
    actions[:, 3, :6] = torch.tensor([0.80, 0.40, 0.0, 3.0, 0.0, 0.0])  # beyond the arm
    actions[40:, 4, 2] = -2.0  # after the success
    actions[:, 5] = actions[0, 5]  # gives up
    return actions


def test_success_and_failures_are_those_of_lary_rollout():
    seeds = seeds_of("rollout", 7)
    actions = recorded(seeds)
    sim = SimEnv("reach", 7, image_px=16)
    theirs = run_episodes(
        sim, EndEffectorController(7), lambda: Replay(actions), seeds, max_steps=50
    ).episodes
    assert [e.success for e in theirs] == [True, False, False, False, True, False, True]
    env = made(LarySimEnv(**SMALL), 7)

    def as_is(value):
        return value

    data = rollout(env, Replay(actions), as_is, as_is, as_is, as_is, seeds=seeds)
    assert data["success"].any(1).tolist() == [e.success for e in theirs]
    assert data["reward"].sum(1).tolist() == [float(e.success) for e in theirs]
    steps_before = [row.tolist().index(True) if row.any() else -1 for row in data["success"]]
    assert steps_before == [(e.first_success_step or 0) - 1 for e in theirs]
    # Worlds that ended rest, and say why: only a failure after the success is never met.
    failures = env.step(np.zeros((7, 7), np.float32))[4]["failure"].tolist()
    assert [e.failure for e in theirs][4] == "out_of_range_action"
    assert failures == [e.failure if not e.success else None for e in theirs]
    assert set(failures) == {None, "non_finite_action", "out_of_range_action", "target_out_of_reach"}
    close_envs({"lary_sim": {0: env}})


def test_policies_see_the_same_through_arrays_and_tensors():
    seen = []
    for tensors in (False, True):
        config = LarySimEnv(cameras=["front", "wrist"], torch_observations=tensors, image_px=24)
        before, after = make_env_pre_post_processors(config, ACTConfig(pretrained_backbone_weights=None))
        env = made(config, 2)
        observation, _ = env.reset(seed=[1, 2])
        seen.append(before({**preprocess_observation(observation), "task": ["reach"] * 2}))
        assert after({"action": torch.ones(2, 7)})["action"].shape == (2, 7)
        env.close()
    assert set(seen[0]) == set(seen[1])
    images = [key for key in seen[0] if key.startswith("observation.images")]
    assert len(images) == 2
    for key in (*images, "observation.state"):
        ours, theirs = (batch[key] for batch in seen)
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype == torch.float32
        assert torch.equal(ours, theirs)
    assert seen[1]["task"] == ["reach"] * 2


def test_autocast_of_the_policy_does_not_touch_what_is_measured():
    env = SimEnv("reach", 2, image_px=16, physics="warp")  # float32, as on a GPU
    env.reset([1, 2])
    exact = env.proprio()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(env.proprio(), exact)
    env.close()


@pytest.mark.gpu
def test_on_cuda_observations_stay_on_the_device():
    config = LarySimEnv(device="cuda", image_px=32)
    before, _ = config.get_env_processors()
    env = made(config, 4)
    observation, _ = env.reset(seed=[1, 2, 3, 4], options={"lerobot_new_rollout": True})
    assert all(value.is_cuda for value in observation.values())
    batch = before({**preprocess_observation(observation), "task": ["reach"] * 4})
    image = batch["observation.images.front"]
    assert image.is_cuda
    assert image.shape == (4, 3, 32, 32)
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    actions = observation["state"].cpu().numpy()
    actions[0, 0] = np.nan
    after, reward, terminated, _, info = env.step(actions)
    assert (reward.tolist(), terminated.tolist()) == ([0.0] * 4, [True, False, False, False])
    assert info["failure"].tolist() == ["non_finite_action", None, None, None]
    film = np.stack(env.call("render")[:2])
    assert (film == after["images.front"][:2].cpu().numpy()).all()
    rested = env.step(actions + np.float32(0.02))[0]
    assert torch.equal(rested["images.front"][0], after["images.front"][0])
    assert torch.equal(rested["state"][0], after["state"][0])
    assert not torch.equal(rested["state"][1], after["state"][1])
    env.close()


def test_a_contract_feature_is_a_feature():
    feature = ContractFeature(FeatureType.ACTION, (7,), {"embodiment": "arm7"})
    assert isinstance(feature, PolicyFeature)
    assert draccus.encode(feature) == draccus.encode(PolicyFeature(FeatureType.ACTION, (7,)))
