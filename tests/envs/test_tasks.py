"""Every registered task: its expert succeeds, and its success condition can fail."""

import dataclasses

import pytest
import torch

from lary_envs.controller import EndEffectorController
from lary_envs.env import SimEnv
from lary_envs.tasks.expert import make_expert
from lary_envs.tasks.spec import Placement, WorldState, list_tasks, register_task, task_entry, task_spec
from lary_policy.errors import SimulationError, UnknownNameError

TASKS = list_tasks()
ARM7 = tuple(task for task in TASKS if task_spec(task).embodiment == "arm7")


def run_expert(task, seeds, noise_m=0.0):
    """Return bool `[w]` for success ever and at the end, and the number of steps until the first success."""
    env = SimEnv(task, len(seeds))
    controller = EndEffectorController(len(seeds), embodiment=env.task.embodiment)
    env.reset(seeds)
    controller.reset(env.joints())
    expert = make_expert(task, env)
    expert.reset()
    generator, target = torch.Generator().manual_seed(0), controller.pose()
    ever = torch.zeros(len(seeds), dtype=torch.bool)
    largest = 0.0
    for _ in range(env.task.max_steps):
        wanted = expert.act(target)
        largest = max(largest, float((wanted - target)[:, :3].norm(dim=-1).max()))
        noise = noise_m * torch.randn(len(seeds), 3, generator=generator)
        wanted[:, :3] += noise * expert.free_space()[:, None]
        assert controller.check(wanted) == [None] * len(seeds)
        env.step(controller.command(wanted))
        target = wanted
        ever |= env.success()
    return ever, env.success(), largest


@pytest.mark.parametrize("task", TASKS)
def test_expert_succeeds_on_50_seeds(task):
    ever, at_end, largest = run_expert(task, range(1000, 1050))
    assert int(ever.sum()) >= 48
    assert int(at_end.sum()) >= 48
    assert largest < 0.0205  # 0.4 m/s


@pytest.mark.parametrize("task", TASKS)
def test_expert_corrects_injected_noise(task):
    ever, _, _ = run_expert(task, range(20), noise_m=0.005)
    assert int(ever.sum()) >= 18


def world(**changes):
    """One world in which the pick-and-place, push and reach conditions all hold."""
    fields = {
        "arms": [[0.5, 0.1, 0.02, 0.0, 0.0, 0.0, 0.95]],
        "goals": [[0.5, 0.1, 0.0]],
        "goal_yaw": 0.0,
        "object_pos": [0.51, 0.1, 0.02],
        "object_rot": torch.eye(3).tolist(),
        "object_speed": 0.0,
        "object_peak": 0.12,
    }
    return WorldState(
        **{k: torch.tensor([changes.get(k, v)], dtype=torch.float64) for k, v in fields.items()}
    )


BROKEN = {
    "reach": [
        {"arms": [[0.5, 0.1, 0.031, 0.0, 0.0, 0.0, 1.0]]},
        {"arms": [[0.5, 0.131, 0.0, 0.0, 0.0, 0.0, 1.0]]},
    ],
    "push": [{"object_pos": [0.55, 0.1, 0.025]}, {"object_speed": 0.2}],
    "pick_place": [
        {"object_pos": [0.5, 0.145, 0.02]},
        {"object_pos": [0.5, 0.1, 0.06]},
        {"object_peak": 0.05},
        {"object_speed": 0.2},
        {"arms": [[0.5, 0.1, 0.02, 0.0, 0.0, 0.0, 0.55]]},
    ],
}


def test_every_task_has_broken_conditions():
    assert set(BROKEN) == set(ARM7)


@pytest.mark.parametrize("task", sorted(BROKEN))
def test_every_part_of_the_condition_matters(task):
    rules = task_entry(task).factory()
    assert bool(rules.holds(world()))
    for change in BROKEN[task]:
        assert not bool(rules.holds(world(**change))), change


def test_success_needs_its_duration():
    env, controller = SimEnv("reach", 1), EndEffectorController(1)
    env.reset([0])
    controller.reset(env.joints())
    target = controller.pose()
    target[:, :3] = env.state()["goal_pos"]
    held = 0
    while not env.success():
        env.step(controller.command(target))
        near = (env.proprio()[:, :3] - env.state()["goal_pos"]).norm() < 0.03
        held = held + 1 if near else 0
        assert held <= env.task.hold_steps
    assert held == env.task.hold_steps == 10


@pytest.mark.parametrize("task", TASKS)
def test_sampled_goals_lie_on_or_above_the_table_and_in_reach(task):
    env = SimEnv(task, 200)
    env.reset(range(200))
    for name, pos in env.state().items():
        if name.endswith("_pos"):
            assert (pos[:, 2] >= 0).all()
            assert pos[:, 0].min() > 0.3
            assert pos[:, :2].norm(dim=-1).max() < 0.75


def test_names():
    with pytest.raises(UnknownNameError, match="Did you mean 'reach'"):
        task_spec("reeach")
    spec = dataclasses.replace(task_spec("reach"))
    with pytest.raises(SimulationError, match="twice"):
        register_task(spec, tuple)(lambda: None)
    assert Placement((0.0, 0.0, 0.0)).yaw_rad == 0.0
