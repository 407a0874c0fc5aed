"""Reachability: known answers. What experts ask for is looked at in their episodes (test_tasks.py)."""

import math

import pytest
import torch

from lary_envs.kinematics.chain import TorchChain
from lary_envs.robots.robot import list_robots, robot_of
from lary_envs.tools.reachability import downward, grid, joint_margin_rad, reachability
from lary_policy.actions.rotation import geodesic_angle_rad
from lary_policy.errors import UnknownNameError

PANDA = robot_of("arm7")
MARGIN_RAD = math.radians(2)  # servos sag by less than half a degree under load


@pytest.mark.parametrize("embodiment", list_robots())
def test_poses_around_home_are_reached_by_every_arm(embodiment):
    robot = robot_of(embodiment)
    for arm in robot.arms:
        chain = TorchChain([arm.chain])
        pos, rot = (value[0, 0] for value in chain.forward(chain.home[None]))
        points = pos + grid((-0.04,) * 3, (0.04,) * 3, (3, 3, 3))
        found = reachability(robot, arm.side, points, rot[None], starts=1, kernel="warp")
        assert found.fraction(MARGIN_RAD) == 1.0


def test_more_starts_find_more_and_never_less():
    points, turns = grid((0.3, -0.4, 0.02), (0.8, 0.4, 0.5), (4, 4, 3)), downward((0.0,))
    home, many = (reachability(PANDA, "single", points, turns, starts=n, kernel="warp") for n in (1, 6))
    assert not (home.mask() & ~many.mask()).any()
    assert 0.5 < home.fraction() <= many.fraction() < 1  # the far corners are out of reach
    assert (many.margin_rad >= home.margin_rad)[home.mask()].all()


def test_answers_are_postures_with_those_poses():
    points, turns = grid((0.4, -0.2, 0.05), (0.6, 0.2, 0.2), (2, 2, 2)), downward((-0.5, 0.5))
    found = reachability(PANDA, "single", points, turns, starts=2)
    chain = TorchChain([PANDA.arms[0].chain])
    assert found.joints.shape == (8, 2, 7)
    pos, rot = chain.forward(found.joints.reshape(16, 1, 7))
    torch.testing.assert_close(pos.view(8, 2, 3), points[:, None].expand(8, 2, 3), atol=1e-3, rtol=0)
    assert geodesic_angle_rad(rot.view(8, 2, 3, 3), turns.expand(8, 2, 3, 3)).max() < 0.01
    margin = joint_margin_rad(chain, found.joints.reshape(16, 1, 7)).view(8, 2)
    assert torch.equal(margin, found.margin_rad)
    assert found.mask().all()


def test_what_is_too_far_is_not_reached():
    found = reachability(PANDA, "single", torch.tensor([[1.2, 0.0, 0.2]]), downward((0.0,)), starts=3)
    assert found.fraction() == 0.0
    assert found.error_m.item() > 0.2


def test_unknown_arm_is_refused():
    with pytest.raises(UnknownNameError, match="single"):
        reachability(PANDA, "left", torch.zeros(1, 3), downward((0.0,)))
