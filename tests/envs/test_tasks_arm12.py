"""The bimanual tasks: what counts as success, and that both arms are needed."""

import math

import pytest
import torch
from expert_play import play

from lary_envs.controller import EndEffectorController
from lary_envs.tasks.spec import list_tasks, task_entry, task_spec
from lary_envs.tasks.state import WorldState
from lary_policy.actions.rotation import euler_xyz_to_matrix

TASKS = tuple(task for task in list_tasks() if task_spec(task).embodiment == "arm12")
LEFT, RIGHT = slice(0, 6), slice(6, 12)


def test_there_are_three():
    assert TASKS == ("dual_lift", "dual_push", "dual_reach")
    assert task_spec("dual_lift").cameras == ("front", "agent")


@pytest.mark.parametrize("task", TASKS)
def test_expert_corrects_noise_in_both_arms(task):
    generator = torch.Generator().manual_seed(0)

    def disturb(wanted, _, expert):
        noise = 0.005 * torch.randn(wanted.shape, generator=generator)
        noise[:, [3, 4, 5, 9, 10, 11]] *= 4  # radians
        return wanted + noise * expert.free_space()[:, None]

    env, ever = play(task, range(300, 320), disturb)
    assert int(ever.sum()) >= 19
    assert not env.diverged().any()


@pytest.mark.parametrize("still", [LEFT, RIGHT], ids=["left", "right"])
@pytest.mark.parametrize("task", TASKS)
def test_one_arm_alone_fails(task, still):
    def hold(wanted, start, _):
        wanted[:, still] = start[:, still]
        return wanted

    assert not play(task, range(5), hold)[1].any()


def test_a_lifted_bar_falls_when_the_paddles_open():
    env, _ = play("dual_lift", range(5))
    assert float(env.state()["object_pos"][:, 2].min()) > 0.13
    controller = EndEffectorController(5, embodiment="arm12")
    controller.reset(env.joints())
    apart = controller.pose()
    apart[:, 1] += 0.05
    apart[:, 7] -= 0.05
    for _ in range(20):
        env.step(controller.command(apart))
    assert float(env.state()["object_pos"][:, 2].max()) < 0.05
    assert not env.success().any()


def world(task, **changes):
    """One world in which the condition of a task holds, with some fields changed."""
    yaw = torch.tensor([0.0, 0.0, changes.pop("yaw", 0.2)], dtype=torch.float64)
    tilt = torch.tensor([changes.pop("tilt", 0.0), 0.0, 0.0], dtype=torch.float64)
    height = 0.16 if task == "dual_lift" else 0.04
    fields = {
        "arms": [[0.35, 0.2, 0.1, 0.0, 0.0, 0.2, 1.0], [0.35, -0.2, 0.1, 0.0, 0.0, 0.2, 1.0]],
        "goals": [[0.35, 0.2, 0.1], [0.35, -0.2, 0.1]] if task == "dual_reach" else [[0.35, 0.1, height]],
        "goal_yaw": 0.2,
        "object_pos": [0.36, 0.1, height],
        "object_rot": (euler_xyz_to_matrix(yaw) @ euler_xyz_to_matrix(tilt)).tolist(),
        "object_speed": 0.0,
        "object_peak": height,
    }
    values = {name: changes.get(name, value) for name, value in fields.items()}
    return WorldState(**{k: torch.tensor([v], dtype=torch.float64) for k, v in values.items()})


def moved(side, dz):
    arms = [[0.35, 0.2, 0.1, 0.0, 0.0, 0.2, 1.0], [0.35, -0.2, 0.1, 0.0, 0.0, 0.2, 1.0]]
    arms[side][2] += dz
    return {"arms": arms}


BROKEN = {
    "dual_reach": [moved(0, 0.031), moved(1, -0.031)],
    "dual_push": [
        {"object_pos": [0.381, 0.1, 0.04]},
        {"yaw": 0.2 + math.radians(10.5)},
        {"yaw": 0.2 - math.radians(10.5)},
        {"object_speed": 0.06},
    ],
    "dual_lift": [
        {"object_pos": [0.36, 0.1, 0.129], "goals": [[0.36, 0.1, 0.14]]},
        {"object_pos": [0.376, 0.1, 0.16]},
        {"tilt": math.radians(16)},
    ],
}


@pytest.mark.parametrize("task", TASKS)
def test_every_part_of_the_condition_matters(task):
    rules = task_entry(task).factory()
    assert bool(rules.holds(world(task)))
    for change in BROKEN[task]:
        assert not bool(rules.holds(world(task, **change))), change
