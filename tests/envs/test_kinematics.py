"""The arm's kinematics against the published numbers, MuJoCo's own and mink's."""

import math

import mujoco
import numpy as np
import pytest
import torch

from lary_envs.kinematics.chain import TorchChain
from lary_envs.robots.panda import CHAIN
from lary_envs.scene.table import build_model
from lary_envs.tasks.spec import task_entry

READY = (0.0, -math.pi / 4, 0.0, -3 * math.pi / 4, 0.0, math.pi / 2, math.pi / 4)


class OneArm:
    """The only arm of a robot, without the dimension of arms."""

    def __init__(self):
        self.chain = TorchChain([CHAIN])
        self.home, self.lower, self.upper = self.chain.home[0], self.chain.lower[0], self.chain.upper[0]

    def forward(self, joints):
        return tuple(value[:, 0] for value in self.chain.forward(joints[:, None]))

    def jacobian(self, joints):
        return tuple(value[:, 0] for value in self.chain.jacobian(joints[:, None]))


@pytest.fixture(scope="module")
def chain():
    return OneArm()


@pytest.fixture(scope="module")
def model():
    return build_model(task_entry("reach").factory())


def random_joints(count, seed=0, margin=0.0):
    rng = np.random.default_rng(seed)
    low, high = CHAIN.lower + margin, CHAIN.upper - margin
    return torch.from_numpy(rng.uniform(low, high, (count, 7)))


def craig_transform(a, d, alpha, theta):
    """The textbook matrix of one link in Craig's convention, written out."""
    ct, st, ca, sa = math.cos(theta), math.sin(theta), math.cos(alpha), math.sin(alpha)
    return np.array(
        [
            [ct, -st, 0, a],
            [st * ca, ct * ca, -sa, -d * sa],
            [st * sa, ct * sa, ca, d * ca],
            [0, 0, 0, 1],
        ]
    )


def textbook_tcp(joints):
    """Position and rotation of the TCP from Franka's table, flange, hand and tool."""
    half = math.pi / 2
    table = [(0, 0.333, 0), (0, 0, -half), (0, 0.316, half), (0.0825, 0, half), (-0.0825, 0.384, -half)]
    table += [(0, 0, half), (0.088, 0, half), (0, 0.107, 0)]
    frame = np.eye(4)
    for (a, d, alpha), theta in zip(table, [*joints, 0.0], strict=True):
        frame = frame @ craig_transform(a, d, alpha, theta)
    frame = frame @ craig_transform(0, 0.1034, 0, -math.pi / 4)
    return frame[:3, 3], frame[:3, :3] @ np.diag([1.0, -1.0, -1.0])


def test_ready_posture_has_the_published_tcp(chain):
    pos, rot = chain.forward(torch.tensor([READY], dtype=torch.float64))
    torch.testing.assert_close(
        pos[0], torch.tensor([0.30689, 0.0, 0.48688], dtype=torch.float64), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(rot[0], torch.eye(3, dtype=torch.float64), atol=1e-9, rtol=0)


def test_forward_equals_the_dh_table(chain):
    joints = random_joints(20)
    pos, rot = chain.forward(joints)
    for row in range(20):
        want_pos, want_rot = textbook_tcp(joints[row].tolist())
        np.testing.assert_allclose(pos[row].numpy(), want_pos, atol=1e-12)
        np.testing.assert_allclose(rot[row].numpy(), want_rot, atol=1e-12)


def test_forward_equals_the_simulated_robot(chain, model):
    data, joints = mujoco.MjData(model), random_joints(20, seed=1)
    pos, rot = chain.forward(joints)
    for row in range(20):
        data.qpos[:7] = joints[row].numpy()
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(pos[row].numpy(), data.site("tcp").xpos, atol=1e-9)
        np.testing.assert_allclose(rot[row].numpy().ravel(), data.site("tcp").xmat, atol=1e-9)


def test_jacobian_equals_finite_differences(chain):
    joints, step = random_joints(5, seed=2), 1e-6
    _, rot, jacobian = chain.jacobian(joints)
    for joint in range(7):
        moved = joints.clone()
        moved[:, joint] += step
        pos_plus, rot_plus = chain.forward(moved)
        moved[:, joint] -= 2 * step
        pos_minus, rot_minus = chain.forward(moved)
        linear = (pos_plus - pos_minus) / (2 * step)
        spin = (rot_plus - rot_minus) / (2 * step) @ rot.transpose(1, 2)
        angular = torch.stack([spin[:, 2, 1], spin[:, 0, 2], spin[:, 1, 0]], -1)
        torch.testing.assert_close(jacobian[:, :3, joint], linear, atol=1e-7, rtol=0)
        torch.testing.assert_close(jacobian[:, 3:, joint], angular, atol=1e-7, rtol=0)


def test_home_points_straight_down_with_room_to_the_limits(chain):
    pos, rot = chain.forward(chain.home[None])
    torch.testing.assert_close(
        pos[0], torch.tensor([0.40, 0.0, 0.22], dtype=torch.float64), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(rot[0], torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)
    assert torch.minimum(chain.home - chain.lower, chain.upper - chain.home).min() > 0.3
