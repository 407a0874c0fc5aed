"""What gymnasium and its users expect of any environment: copies, specs, order of calls, flat spaces."""

from __future__ import annotations

import copy
import pickle

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ClosedEnvironmentError, ResetNeeded

from lary_envs import SimEnv
from lary_envs.gym import LaryEnv, LaryVectorEnv
from lary_policy.errors import SimulationError

REACH = "lary_envs:lary/PandaReach-v0"
OPTIONS = {"image_px": 8, "cameras": ("front", "wrist"), "action_mode": "relative", "randomisation": "train"}
COPIES = {
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: cloudpickle.loads(cloudpickle.dumps(env)),
    "deepcopy": copy.deepcopy,
}


def make(kind):
    if kind == "single":
        return gymnasium.make(REACH, **OPTIONS)
    return gymnasium.make_vec(REACH, num_envs=2, vectorization_mode="vector_entry_point", **OPTIONS)


def first_steps(env, seed=3):
    """Return everything that a reset and two steps give."""
    seen = [env.reset(seed=seed)]
    action = np.zeros(env.action_space.shape, np.float32)
    action[..., 0], action[..., 6] = 0.01, 1.0
    return [*seen, env.step(action), env.step(action)]


def equal(first, second):
    np.testing.assert_equal(first, second)


@pytest.mark.parametrize("kind", ["single", "vector"])
@pytest.mark.parametrize("how", sorted(COPIES))
def test_copies_are_made_again_and_act_alike(kind, how):
    env = make(kind)
    wanted = first_steps(env)
    for original in (env, env.unwrapped):
        made = COPIES[how](original)
        assert made.spec == original.spec
        with pytest.raises(ResetNeeded):  # whatever was done with the original
            made.unwrapped.step(np.zeros(made.action_space.shape, np.float32))
    equal(first_steps(made), wanted)
    made.close()
    equal(env.reset(seed=3), wanted[0])  # the original lives on
    env.close()


def test_the_simulation_itself_is_copied_from_its_arguments():
    env = SimEnv("push", 2, image_px=8, randomisation="shifted")
    made = pickle.loads(pickle.dumps(env))
    for one in (env, made):
        one.reset([5, 6])
    assert all((env.state()[name] == value).all() for name, value in made.state().items())
    assert (env.frames() == made.frames()).all()
    for one in (env, made):
        one.close()


@pytest.mark.parametrize("kind", ["single", "vector"])
def test_an_env_can_be_made_again_from_its_spec(kind):
    env = make(kind)
    assert {**OPTIONS, "task": "reach"}.items() <= env.spec.kwargs.items()
    assert env.spec.pprint(disable_print=True)
    remake = gymnasium.make if kind == "single" else gymnasium.make_vec
    again = [remake(env.spec)]
    if kind == "single":
        again.append(remake(EnvSpec.from_json(env.spec.to_json())))
    for made in again:
        assert made.observation_space == env.observation_space
        assert made.action_space == env.action_space
        equal(made.reset(seed=1)[0], env.reset(seed=1)[0])
        made.close()
    env.close()


@pytest.mark.parametrize("env", [LaryEnv("reach", image_px=8), LaryVectorEnv("reach", 2, image_px=8)])
def test_nothing_is_stepped_or_shown_before_a_reset_or_after_closing(env):
    action = np.zeros(env.action_space.shape, np.float32)
    env.render_mode = "rgb_array"
    for call in (lambda: env.step(action), env.render):
        with pytest.raises(ResetNeeded, match=r"reset\(\)"):
            call()
    if isinstance(env, LaryVectorEnv):
        env.reset(seed=1, options={"reset_mask": np.array([True, False])})
        with pytest.raises(ResetNeeded, match=r"worlds \[1\]"):
            env.step(action)
    held = env.reset(seed=1)[0]["agent_pos"]
    env.step(held)
    env.close()
    for call in (lambda: env.step(held), env.reset, env.render):
        with pytest.raises(ClosedEnvironmentError):
            call()
    env.close()


def test_flat_observations_are_the_nested_ones_under_other_names():
    options = {"image_px": 8, "cameras": ("front", "wrist")}
    nested, flat = LaryEnv("reach", **options), LaryEnv("reach", flat_observations=True, **options)
    ours, theirs = flat.reset(seed=2)[0], nested.reset(seed=2)[0]
    assert flat.observation_space.contains(ours)
    assert set(ours) == {"pixels_front", "pixels_wrist", "agent_pos"}
    equal(ours["pixels_wrist"], theirs["pixels"]["wrist"])
    equal(ours["agent_pos"], theirs["agent_pos"])
    many = LaryVectorEnv("reach", 2, flat_observations=True, **options)
    assert many.observation_space.contains(many.reset(seed=2)[0])
    for env in (nested, flat, many):
        env.close()
    with pytest.raises(SimulationError, match="both"):
        LaryEnv("reach", flat_observations=True, torch_observations=True)


def test_stable_baselines3_checks_and_trains():
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    from stable_baselines3 import PPO

    env = gymnasium.make(REACH, image_px=36, flat_observations=True, max_episode_steps=4)
    checker.check_env(env)
    PPO("MultiInputPolicy", env, n_steps=2, batch_size=2, n_epochs=1, device="cpu").learn(2)
    env.close()
