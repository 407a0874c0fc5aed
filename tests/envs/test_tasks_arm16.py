"""The tasks of the semi-humanoid: what counts as success, and that both hands are needed."""

import math

import pytest
import torch
from expert_play import play

from lary_envs.robots.humanoid.g1 import GRIPPER_TILT_RAD
from lary_envs.robots.humanoid.poses import hand, hands, point, withdrawn
from lary_envs.tasks.spec import list_tasks, task_entry, task_spec
from lary_envs.tasks.state import WorldState
from lary_policy.actions.rotation import euler_xyz_to_matrix

TASKS = tuple(task for task in list_tasks() if task_spec(task).embodiment == "arm16")
LEFT, RIGHT = [0, 1, 2, 6, 7, 8, 9, 15], [3, 4, 5, 10, 11, 12, 13, 14]


def test_there_are_three():
    assert TASKS == ("handover", "humanoid_place", "humanoid_reach")
    assert task_spec("handover").cameras == ("front", "agent", "wrist_left", "wrist_right")


@pytest.mark.parametrize("task", TASKS)
def test_expert_corrects_noise_in_both_arms(task):
    generator = torch.Generator().manual_seed(0)

    def disturb(wanted, _, expert):
        noise = 0.005 * torch.randn(wanted.shape, generator=generator)
        noise[:, 6:14] *= 2  # half angles: 0.02 rad
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

    assert not play(task, range(2), hold)[1].any()


def test_the_stick_changes_hands_in_the_air():
    """In some step both fingers of both hands hold it, 10 cm or more above the table."""
    held = torch.zeros(4, dtype=torch.bool)

    def watch(state):
        closed = (state.arms[..., 6] - 0.26).abs().amax(-1) < 0.04
        held.logical_or_(closed & (state.object_pos[:, 2] > 0.1))

    _, ever = play("handover", range(4), watch=watch)
    assert held.all()
    assert ever.all()


def test_the_tray_stays_level_between_the_hands():
    least = torch.ones(4)

    def watch(state):
        least.copy_(torch.minimum(least, state.object_rot[:, 2, 2].float()))

    _, ever = play("humanoid_place", range(4), watch=watch)
    assert float(least.min()) > math.cos(math.radians(6))
    assert ever.all()


def test_fingers_close_across_what_they_hold():
    """The closing direction is level and at right angles to a thing turned by the yaw."""
    yaw = torch.tensor([-0.25, 0.0, 0.1, 0.25], dtype=torch.float64)
    pose = hand(point(yaw[:, None], 0.43, 0.1, 0.2), 0.5, yaw_rad=yaw)
    closing = euler_xyz_to_matrix(pose[:, 3:6])[:, :, 0]
    torch.testing.assert_close(closing, torch.stack([yaw.cos(), yaw.sin(), 0 * yaw], -1))
    assert (pose[:, 6] == 0.5).all()


@pytest.mark.parametrize(("side", "outwards"), [("left", 1), ("right", -1)])
def test_withdrawing_follows_the_gripper(side, outwards):
    start = point(torch.zeros(1, 1), 0.43, 0.0, 0.2)
    moved = withdrawn(start, 0.1, side) - start
    wanted = [0.0, outwards * math.sin(GRIPPER_TILT_RAD), math.cos(GRIPPER_TILT_RAD)]
    torch.testing.assert_close(moved[0], 0.1 * torch.tensor(wanted))


def test_hands_turn_gently():
    state = world("handover")
    far = hand(state.goals[:, 0], 0.5, yaw_rad=0.3)
    near = hand(state.goals[:, 0], 0.5, yaw_rad=-0.01)
    pose = hands(state, far, near)
    torch.testing.assert_close(pose[0, :, 5], torch.tensor([0.05, -0.01], dtype=torch.float64))
    torch.testing.assert_close(pose[0, :, :3], state.goals.expand(1, 2, 3)[0])
    assert (pose[..., 6] == 0.5).all()


def test_hands_lean_towards_what_is_far():
    near, far = point(torch.zeros(1, 1), 0.36, 0.1, 0.2), point(torch.zeros(1, 1), 0.50, 0.1, 0.2)
    assert float(hand(near, 1.0, lean=1.0)[0, 4]) == pytest.approx(0.25, abs=1e-6)
    assert float(hand(far, 1.0, lean=1.0)[0, 4]) == pytest.approx(-0.25, abs=1e-6)
    assert float(hand(far, 1.0)[0, 4]) == 0.0


HEIGHT = {"handover": 0.016, "humanoid_place": 0.006, "humanoid_reach": 0.0}


def arms(left=(0.0, 1.0), right=(0.0, 1.0)):
    """Both hands beside y = 0.1: (shift along z, opening) each."""
    return [[0.42, 0.2, 0.1 + dz, 0.0, 0.0, 0.0, opening] for dz, opening in (left,)] + [
        [0.42, -0.2, 0.1 + dz, 0.0, 0.0, 0.0, opening] for dz, opening in (right,)
    ]


def world(task, **changes):
    """One world in which the condition of a task holds, with some fields changed."""
    yaw = torch.tensor([0.0, 0.0, changes.pop("yaw", 0.1)], dtype=torch.float64)
    reach = task == "humanoid_reach"
    fields = {
        "arms": arms(),
        "goals": [[0.42, 0.2, 0.1], [0.42, -0.2, 0.1]] if reach else [[0.42, -0.1, 0.0]],
        "goal_yaw": 0.1,
        "object_pos": [0.43, -0.1, HEIGHT[task]],
        "object_rot": euler_xyz_to_matrix(yaw).tolist(),
        "object_speed": 0.0,
        "object_peak": 0.14,
    }
    values = {name: changes.get(name, value) for name, value in fields.items()}
    return WorldState(**{k: torch.tensor([v], dtype=torch.float64) for k, v in values.items()})


BROKEN = {
    "humanoid_reach": [{"arms": arms(left=(0.026, 1.0))}, {"arms": arms(right=(-0.026, 1.0))}],
    "handover": [
        {"object_pos": [0.461, -0.1, 0.016]},
        {"object_pos": [0.43, -0.1, 0.022]},
        {"object_peak": 0.115},
        {"object_speed": 0.06},
        {"arms": arms(left=(0.0, 0.45))},
        {"arms": arms(right=(0.0, 0.45))},
    ],
    "humanoid_place": [
        {"object_pos": [0.451, -0.1, 0.006]},
        {"object_pos": [0.43, -0.1, 0.012]},
        {"object_peak": 0.055},
        {"object_speed": 0.06},
        {"yaw": 0.1 + math.radians(10.5)},
        {"yaw": 0.1 - math.radians(10.5)},
        {"arms": arms(left=(0.0, 0.45))},
        {"arms": arms(right=(0.0, 0.45))},
    ],
}


@pytest.mark.parametrize("task", TASKS)
def test_every_part_of_the_condition_matters(task):
    rules = task_entry(task).factory()
    assert bool(rules.holds(world(task)))
    for change in BROKEN[task]:
        assert not bool(rules.holds(world(task, **change))), change
