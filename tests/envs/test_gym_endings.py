"""How gymnasium episodes end: finished worlds that rest, failures by name, tensors instead of arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from lary_envs.gym.core import GymCore, Outcome
from lary_envs.gym.single import LaryEnv
from lary_envs.gym.vector import LATCHED, LaryVectorEnv
from lary_policy.errors import SimulationError, UnknownNameError

SMALL = {"image_px": 16, "render_mode": "rgb_array"}
FAR = (3.0, 0.0, 0.2)  # metres: outside every workspace


@pytest.fixture
def make():
    made = []

    def build(num_envs=3, task="reach", mode=LATCHED, on_failure="end", **options):
        env = LaryVectorEnv(task, num_envs, autoreset_mode=mode, on_failure=on_failure, **SMALL, **options)
        made.append(env)
        return env

    yield build
    for env in made:
        env.close()


def reaching(env, observation, world=0):
    """Return actions that lead one world of `reach` to its goal and hold the others."""
    actions = observation["agent_pos"].copy()
    actions[world, :3] = env._core.sim.state()["goal_pos"][world].numpy()
    return actions


def test_a_finished_world_rests_and_repeats_how_it_ended(make):
    env = make()
    first, info = env.reset(seed=[3, 4, 5], options={"lerobot_new_rollout": True})
    assert info["is_success"].tolist() == [False] * 3
    actions = reaching(env, first)
    step = env.step(actions)
    while not step[2][0]:
        step = env.step(actions)
    ended, reward, terminated, _, info = step
    assert reward.tolist() == [1.0, 0.0, 0.0]
    actions[:, 1] += 0.1  # would move all worlds
    for _ in range(3):
        observation, reward, terminated, truncated, info = env.step(actions)
        assert reward.tolist() == [0.0] * 3
        assert terminated.tolist() == info["is_success"].tolist() == [True, False, False]
        assert not truncated.any()
    state = env._core.sim.proprio()[0].numpy()
    np.testing.assert_allclose(state, ended["agent_pos"][0], atol=0.01)  # it really rests
    for now, then in ((observation["agent_pos"], ended["agent_pos"]), (frames(observation), frames(ended))):
        assert (now[0] == then[0]).all()
        assert (now[1] != then[1]).any()


def frames(observation):
    return observation["pixels"]["front"]


def test_a_reset_wakes_the_worlds_it_names(make):
    env = make(max_episode_steps=2)
    observation, _ = env.reset(seed=[3, 4, 5])
    for _ in range(2):
        observation, _, _, truncated, _ = env.step(observation["agent_pos"])
    assert truncated.all()
    env.reset(seed=[6, 7, 8], options={"reset_mask": np.array([True, False, False])})
    assert env._core.steps.tolist() == [0, 2, 2]
    _, _, _, truncated, _ = env.step(observation["agent_pos"])
    assert truncated.tolist() == [False, True, True]
    env.reset(seed=[6, 7, 8])
    assert not env.step(observation["agent_pos"])[3].any()


def test_bad_targets_end_their_worlds_by_name_and_no_others(make, caplog):
    env = make(4)
    actions = env.reset(seed=1)[0]["agent_pos"].copy()
    actions[0, 4], actions[1, :3] = np.nan, FAR
    observation, reward, terminated, truncated, info = env.step(actions)
    assert terminated.tolist() == [True, True, False, False]
    assert not truncated.any()
    assert not info["is_success"].any()
    assert not reward.any()
    assert info["failure"].tolist() == ["non_finite_action", "out_of_range_action", None, None]
    assert caplog.messages == [
        "reach: episodes that failed: 1 by non_finite_action, 1 by out_of_range_action"
    ]
    assert np.isfinite(observation["agent_pos"]).all()
    actions[2:] = np.inf
    actions[3, :3] = FAR  # not finite either: named first
    assert env.step(actions)[4]["failure"].tolist() == [
        "non_finite_action", "out_of_range_action", "non_finite_action", "non_finite_action",
    ]  # fmt: skip
    env.reset(seed=1)
    actions[:] = (*FAR, 0, 0, 0, 1)
    assert env.step(actions)[4]["failure"].tolist() == ["out_of_range_action"] * 4


def test_a_diverged_world_ends_by_name_and_looks_as_before(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the C engine writes a log into the current folder
    env = make()
    before, _ = env.reset(seed=1)
    env._core.sim._physics.field("qvel")[1] = float("inf")
    after, _, terminated, _, info = env.step(before["agent_pos"] + np.float32(0.01))
    assert info["failure"].tolist() == [None, "diverged", None]
    assert terminated.tolist() == [False, True, False]
    for now, then in ((after["agent_pos"], before["agent_pos"]), (frames(after), frames(before))):
        assert (now[1] == then[1]).all()
        assert (now[0] != then[0]).any()
    assert np.isfinite(env.step(after["agent_pos"])[0]["agent_pos"]).all()
    env.reset(seed=[2, 3, 4], options={"reset_mask": np.array([True, False, False])})  # beside a lost world
    assert env.step(after["agent_pos"])[4]["failure"].tolist() == [None, "diverged", None]
    again, _ = env.reset(seed=1)
    np.testing.assert_array_equal(again["agent_pos"], before["agent_pos"])


def test_an_arm_that_rests_short_of_its_target_is_named_at_the_end(make):
    env = make(2, max_episode_steps=50)
    actions = env.reset(seed=1)[0]["agent_pos"].copy()
    actions[0, :6] = (0.80, 0.40, 0.0, 3.0, 0.0, 0.0)  # inside the margin, but beyond the arm
    for _ in range(50):
        _, _, terminated, truncated, info = env.step(actions)
    assert truncated.all()
    assert not terminated.any()
    assert info["failure"].tolist() == ["target_out_of_reach", None]


def test_failures_start_the_next_episode_under_gymnasiums_modes(make):
    env = make(2, mode=AutoresetMode.SAME_STEP)
    actions = env.reset(seed=1)[0]["agent_pos"].copy()
    goals = env._core.sim.state()["goal_pos"].clone()
    actions[1, :3] = FAR
    _, _, terminated, _, info = env.step(actions)
    assert terminated.tolist() == info["_final_info"].tolist() == [False, True]
    assert info["final_info"]["failure"].tolist() == [None, "out_of_range_action"]
    assert (env._core.sim.state()["goal_pos"] != goals).any(-1).tolist() == [False, True]


def test_separate_environments_fail_alike(make):
    many = make(3, mode=AutoresetMode.NEXT_STEP)
    single = SyncVectorEnv([lambda: LaryEnv("reach", on_failure="end", **SMALL)] * 3)
    actions = many.reset(seed=[1, 2, 3])[0]["agent_pos"].copy()
    single.reset(seed=[1, 2, 3])
    actions[0, 0], actions[2, :3] = np.nan, FAR
    for _ in range(2):
        ours, theirs = many.step(actions), single.step(actions)
        for own, other in zip(ours[1:4], theirs[1:4], strict=True):
            assert own.tolist() == other.tolist()
        assert ours[4]["is_success"].tolist() == theirs[4]["is_success"].tolist()
        assert ours[4]["failure"].tolist() == theirs[4]["failure"].tolist()
    single.close()


def test_resting_worlds_keep_their_grippers_under_relative_actions(make):
    env = make(2, action_mode="relative")
    env.reset(seed=1)
    actions = np.zeros((2, 7), np.float32)
    actions[:, 6] = 1.0
    actions[1, 0] = np.nan
    for _ in range(5):
        observation, *_ = env.step(actions)
    assert env.step(actions)[4]["failure"].tolist() == [None, "non_finite_action"]
    assert env._core.sim.proprio()[:, 6].min() > 0.9  # open: zero would be a closed gripper
    assert env._core.controller.pose()[1, :3].tolist() == pytest.approx(
        observation["agent_pos"][1, :3], abs=2e-3
    )


def test_tensors_hold_the_same_observation(make):
    arrays, tensors = (
        make(cameras=("front", "wrist")),
        make(cameras=("front", "wrist"), torch_observations=True),
    )
    ours, theirs = arrays.reset(seed=9)[0], tensors.reset(seed=9)[0]
    for _ in range(3):
        assert set(theirs) == {"images.front", "images.wrist", "state"}
        assert torch.equal(theirs["state"], torch.from_numpy(ours["agent_pos"]))
        for name, pixels in ours["pixels"].items():
            assert torch.equal(theirs[f"images.{name}"], torch.from_numpy(pixels))
        actions = ours["agent_pos"] + np.float32(0.01)
        ours, theirs = arrays.step(actions)[0], tensors.step(actions)[0]
    single = LaryEnv("reach", torch_observations=True, **SMALL)
    assert {k: tuple(v.shape) for k, v in single.reset(seed=9)[0].items()} == {
        "images.front": (16, 16, 3), "state": (7,),
    }  # fmt: skip
    single.close()


def test_films_are_the_observed_frames_and_finished_worlds_are_not_rendered(make, monkeypatch):
    env = make(max_episode_steps=2)
    observation, _ = env.reset(seed=1)
    actions = observation["agent_pos"].copy()
    actions[0, :3] = FAR
    rendered = []
    frames_of = env._core.sim.frames
    monkeypatch.setattr(
        env._core.sim, "frames", lambda worlds=None: rendered.append(worlds) or frames_of(worlds)
    )
    env.step(actions)
    observation, *_ = env.step(actions)
    assert rendered == [None, [1, 2]]
    film = env.call("render")
    assert len(film) == 3
    assert (np.stack(film[:2]) == frames(observation)[:2]).all()
    assert (np.stack(env.render()) == frames(observation)).all()
    assert env.call("task_description") == ("move the gripper to the magenta sphere",) * 3
    assert env.get_attr("_max_episode_steps") == (2, 2, 2)
    env.step(actions)
    assert len(rendered) == 2  # all have ended: nothing is rendered at all


def test_what_was_returned_stays_as_it_was(make):
    env = make()
    observation, _ = env.reset(seed=1)
    actions = observation["agent_pos"].copy()
    actions[0, :3] = FAR
    seen = [observation, env.step(actions)[0], env.step(actions + np.float32(0.01))[0]]
    copies = [frames(o).copy() for o in seen]
    env.step(actions + np.float32(0.02))
    env.reset(seed=7)
    assert all((frames(o) == c).all() for o, c in zip(seen, copies, strict=True))


def test_outcomes_say_how_worlds_ended():
    outcome = Outcome(
        success=np.array([True, False, False, False]),
        truncated=np.array([False, True, False, False]),
        failure=np.array([0, 4, 3, 0], np.uint8),
    )
    assert outcome.terminated.tolist() == [True, False, True, False]
    assert outcome.done.tolist() == [True, True, True, False]
    assert outcome.names().tolist() == [None, "target_out_of_reach", "diverged", None]
    kept = Outcome.none(4).where(np.array([True, False, True, False]), outcome)
    assert kept.done.tolist() == [True, False, True, False]


def test_unknown_choices_are_named():
    with pytest.raises(UnknownNameError, match="Latched"):
        LaryVectorEnv("reach", autoreset_mode="latched")
    with pytest.raises(UnknownNameError, match="end, raise"):
        GymCore("reach", 1, on_failure="ignore")
    with pytest.raises(SimulationError, match="max_episode_steps"):
        GymCore("reach", 1, max_episode_steps=0)
