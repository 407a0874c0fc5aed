"""Every task as a gymnasium environment, one world or many."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from lary_envs.gym.registration import gym_ids
from lary_envs.robots.robot import robot_of
from lary_envs.tasks.spec import list_tasks, task_spec
from lary_policy.errors import ShapeError, SimulationError, UnknownNameError

IDS = gym_ids()
SMALL = {"image_px": 16}
# MetaWorld's fifty tasks are one class in scenes of one kind: three of them here, all with `make slow`.
OFTEN = ("metaworld/pick-place-v3", "metaworld/door-open-v3", "metaworld/assembly-v3")
CHECKED = [
    pytest.param(task, marks=pytest.mark.slow if "/" in task and task not in OFTEN else ())
    for task in sorted(IDS)
]
REACH = "lary_envs:lary/PandaReach-v0"


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def test_every_task_has_an_id_made_of_robot_and_task():
    assert set(IDS) >= set(list_tasks())
    for task in list_tasks():
        gym_id = IDS[task]
        robot, name = camel(robot_of(task_spec(task).embodiment).name.rstrip("s")), camel(task)
        assert gym_id == f"lary/{name if name.startswith(robot) else robot + name}-v0"


@pytest.mark.parametrize("task", CHECKED)
def test_gymnasiums_own_checker_passes(task):
    env = gymnasium.make(f"lary_envs:{IDS[task]}", render_mode="rgb_array", **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Advice, not errors: states have no bounds, and actions are in metres and radians.
        for advice in (".*value is (-)?infinity", ".*symmetric and normalized space"):
            warnings.filterwarnings("ignore", message=advice)
        check_env(env.unwrapped)
    env.close()


def test_an_episode_ends_at_success_or_after_its_steps():
    env = gymnasium.make(REACH, max_episode_steps=None, **SMALL)
    observation, info = env.reset(seed=3)
    assert env.unwrapped.observation_space.contains(observation)
    assert info == {"is_success": False, "seed": 3}
    target = observation["agent_pos"].copy()
    target[:3] = env.unwrapped._core.sim.state()["goal_pos"][0].numpy()
    for _ in range(task_spec("reach").max_steps):
        observation, reward, terminated, truncated, info = env.step(target)
        if terminated:
            break
    assert terminated
    assert not truncated
    assert reward == 1.0
    assert info["is_success"]
    env.reset(seed=3)
    hold = observation["agent_pos"].copy()
    hold[:3] = (0.35, -0.3, 0.4)
    ends = [env.step(hold)[2:4] for _ in range(task_spec("reach").max_steps)]
    assert ends[-1] == (False, True)
    assert not any(terminated or truncated for terminated, truncated in ends[:-1])
    env.close()


def test_the_batched_env_equals_single_ones():
    many = gymnasium.make_vec(REACH, num_envs=3, vectorization_mode="vector_entry_point", **SMALL)
    single = SyncVectorEnv([lambda: gymnasium.make(REACH, **SMALL) for _ in range(3)])
    ours, theirs = many.reset(seed=[5, 6, 7])[0], single.reset(seed=[5, 6, 7])[0]
    rng = np.random.default_rng(0)
    for _ in range(4):
        np.testing.assert_allclose(ours["agent_pos"], theirs["agent_pos"], atol=1e-6)
        differing = (ours["pixels"]["front"] != theirs["pixels"]["front"]).mean()
        assert differing < 1e-3  # edge pixels, where rounding of the batch decides
        actions = ours["agent_pos"] + rng.uniform(-0.01, 0.01, (3, 7)).astype(np.float32)
        ours, theirs = many.step(actions)[0], single.step(actions)[0]
    assert many.single_observation_space == single.single_observation_space
    assert many.single_action_space == single.single_action_space
    many.close()
    single.close()


def finish_first(env, seed=0):
    """Lead world 0 to its goal; hold the others."""
    observation, _ = env.reset(seed=seed)
    actions = observation["agent_pos"].copy()
    actions[0, :3] = env._core.sim.state()["goal_pos"][0].numpy()
    for _ in range(task_spec("reach").max_steps):
        step = env.step(actions)
        if step[2][0]:
            return actions, step
    raise AssertionError("the goal was never reached")


def vector(mode, **options):
    kwargs = {"autoreset_mode": mode, **SMALL, **options}
    return gymnasium.make_vec(REACH, num_envs=2, vectorization_mode="vector_entry_point", **kwargs).unwrapped


def test_a_finished_world_starts_again_in_the_next_step():
    env = vector(AutoresetMode.NEXT_STEP)
    actions, (_, reward, terminated, truncated, info) = finish_first(env)
    assert reward.tolist() == [1.0, 0.0]
    assert terminated.tolist() == info["is_success"].tolist() == [True, False]
    old_goal = env._core.sim.state()["goal_pos"].clone()
    observation, reward, terminated, truncated, info = env.step(actions)
    assert not terminated.any()
    assert not truncated.any()
    assert reward.tolist() == [0.0, 0.0]
    moved = (env._core.sim.state()["goal_pos"] != old_goal).any(-1).tolist()
    assert moved == [True, False]
    assert env._core.steps[0] == 0
    assert env.observation_space.contains(observation)
    env.close()


def test_a_finished_world_starts_again_in_the_same_step():
    env = vector(AutoresetMode.SAME_STEP)
    _, (observation, _, terminated, _, info) = finish_first(env)
    assert info["_final_obs"].tolist() == terminated.tolist() == [True, False]
    assert info["final_info"]["is_success"].tolist() == [True, False]
    final = info["final_obs"][0]
    assert env.single_observation_space.contains(final)
    assert np.abs(final["agent_pos"] - observation["agent_pos"][0]).max() > 0.01
    assert env._core.steps[0] == 0
    env.close()


def test_without_autoreset_a_finished_world_must_be_reset():
    env = vector("Disabled")
    actions, (_, _, terminated, _, _) = finish_first(env)
    with pytest.raises(SimulationError, match="reset_mask"):
        env.step(actions)
    steps = env._core.steps.copy()
    env.reset(options={"reset_mask": terminated})
    assert env._core.steps.tolist() == [0, steps[1]]
    env.step(actions)
    env.close()


def test_relative_actions_move_the_commanded_pose():
    env = gymnasium.make(REACH, action_mode="relative", **SMALL)
    before = env.reset(seed=1)[0]["agent_pos"]
    action = np.zeros(7, np.float32)
    action[0], action[6] = 0.01, 1.0
    for _ in range(5):
        after = env.step(action)[0]["agent_pos"]
    np.testing.assert_allclose(after[:3] - before[:3], [0.05, 0.0, 0.0], atol=3e-3)
    env.close()


@pytest.mark.parametrize(
    ("action", "error", "says"),
    [
        (np.zeros(6), ShapeError, "x, y, z, roll"),
        (np.full(7, np.nan), ShapeError, "finite"),
        (np.array([3.0, 0, 0.2, 0, 0, 0, 1]), SimulationError, "out_of_range_action"),
    ],
)
def test_bad_actions_are_named(action, error, says):
    env = gymnasium.make(REACH, disable_env_checker=True, **SMALL)
    env.reset(seed=0)
    with pytest.raises(error, match=says):
        env.step(action)
    env.close()


def test_bad_arguments_are_named():
    with pytest.raises(UnknownNameError, match="absolute, relative"):
        gymnasium.make(REACH, action_mode="delta")
    with pytest.raises(UnknownNameError, match="agent, front, wrist"):
        gymnasium.make(REACH, cameras=("top",))
    with pytest.raises(SimulationError, match="num_worlds"):
        gymnasium.make_vec(REACH, num_envs=0, vectorization_mode="vector_entry_point")
    env = vector(AutoresetMode.NEXT_STEP)
    with pytest.raises(SimulationError, match="2 seeds"):
        env.reset(seed=[1, 2, 3])
    with pytest.raises(SimulationError, match="reset_mask"):
        env.reset(options={"reset_mask": np.array([True])})
    env.close()
