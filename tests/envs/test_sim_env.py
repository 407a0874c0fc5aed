"""SimEnv: initial states, stepping, measurements and refusals."""

import pytest
import torch

from lary_envs.controller import EndEffectorController
from lary_envs.env import SimEnv
from lary_envs.robots.robot import list_robots
from lary_envs.tasks.expert import make_expert
from lary_envs.tasks.spec import list_tasks, task_spec
from lary_policy.errors import ShapeError, SimulationError, UnknownNameError

TASKS = list_tasks()


def play(env, steps):
    """Run the expert for some steps and return the last measured state."""
    controller, expert = (
        EndEffectorController(env.num_worlds, embodiment=env.task.embodiment),
        make_expert(env.task.name, env),
    )
    controller.reset(env.joints())
    expert.reset()
    target = controller.pose()
    for _ in range(steps):
        target = expert.act(target)
        env.step(controller.command(target))
    return {"proprio": env.proprio(), "joints": env.joints(), **env.state()}


@pytest.mark.parametrize("task", TASKS)
def test_initial_state_and_episode_depend_on_the_seed_alone(task):
    many, few = SimEnv(task, 5, num_threads=2), SimEnv(task, 2, num_threads=1)
    many.reset([3, 11, 7, 12, 4])
    few.reset([4, 11])
    for name, value in many.state().items():
        assert torch.equal(value[[4, 1]], few.state()[name]), name
    assert torch.equal(many.joints()[[4, 1]], few.joints())
    after_many, after_few = play(many, 15), play(few, 15)
    for name, value in after_many.items():
        torch.testing.assert_close(value[[4, 1]], after_few[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("task", TASKS)
def test_a_reset_forgets_the_last_episode(task):
    env = SimEnv(task, 2)
    env.reset([1, 2])
    first = play(env, 30)
    env.reset([1, 2])
    assert not env.success().any()
    second = play(env, 30)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("task", TASKS)
def test_different_seeds_differ(task):
    env = SimEnv(task, 3)
    env.reset([0, 1, 2])
    assert env.state()["goal_pos"].std(0)[:2].min() > 1e-3
    assert env.joints().std(0).min() > 1e-4


@pytest.mark.parametrize("task", TASKS)
def test_standing_still_never_succeeds(task):
    env = SimEnv(task, 20)
    controller = EndEffectorController(20, embodiment=env.task.embodiment)
    env.reset(range(20))
    controller.reset(env.joints())
    hold = controller.pose()
    for _ in range(30):
        env.step(controller.command(hold))
        assert not env.success().any()
    assert (env.proprio()[:, :3] - hold[:, :3]).norm(dim=-1).max() < 1e-3


def test_measured_opening_follows_the_gripper():
    env, controller = SimEnv("reach", 1), EndEffectorController(1)
    env.reset([0])
    controller.reset(env.joints())
    target = controller.pose()
    assert env.proprio()[0, 6] > 0.98
    for opening in (0.0, 0.5):
        target[:, 6] = opening
        for _ in range(20):
            env.step(controller.command(target))
        assert abs(float(env.proprio()[0, 6]) - opening) < 0.02


def test_spec_is_complete():
    for name in TASKS:
        spec = task_spec(name)
        assert spec.name == name
        assert spec.instruction
        assert spec.success
        assert spec.embodiment in list_robots()
        assert spec.max_steps > spec.hold_steps


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(UnknownNameError, match="pick_place, push, reach"):
        SimEnv("pick_plaice", 1)
    with pytest.raises(UnknownNameError, match="agent, front, wrist"):
        SimEnv("reach", 1, cameras=("top",))
    with pytest.raises(UnknownNameError, match="cpu, cuda"):
        SimEnv("reach", 1, render_device="tpu")


@pytest.mark.parametrize(
    "arguments", [{"num_worlds": 0}, {"num_worlds": 1, "image_px": 0}, {"num_worlds": -3}]
)
def test_counts_below_one_are_refused(arguments):
    with pytest.raises(SimulationError, match="at least 1"):
        SimEnv("reach", **arguments)


def test_no_camera_is_refused():
    with pytest.raises(SimulationError, match="cameras"):
        SimEnv("reach", 1, cameras=())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused():
    with pytest.raises(SimulationError, match="CUDA"):
        SimEnv("reach", 1, render_device="cuda")


def test_wrong_control_and_seeds_are_refused():
    env = SimEnv("reach", 2)
    with pytest.raises(SimulationError, match="2 seeds"):
        env.reset([1])
    env.reset([1, 2])
    with pytest.raises(ShapeError, match=r"\[2, 8\]"):
        env.step(torch.zeros(2, 7))
    with pytest.raises(ShapeError, match="finite"):
        env.step(torch.full((2, 8), float("nan")))
    with pytest.raises(SimulationError, match="from 0 to 1"):
        env.frames([2])
