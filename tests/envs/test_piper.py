"""The bimanual robot: kinematics against AgileX's published formula, and what the simulator makes of it."""

import itertools
import math

import mujoco
import numpy as np
import pytest
import torch

from lary_envs.kinematics.chain import SerialChain, TorchChain
from lary_envs.kinematics.layout import Layout
from lary_envs.robots.piper import PADDLE_HALF_M
from lary_envs.robots.robot import robot_of
from lary_envs.scene.parts import ARM, GRIPPER, OBJECT, STATIC, STEEL
from lary_policy.actions.embodiment import load_embodiment
from lary_policy.actions.rotation import euler_xyz_to_matrix, matrix_to_axis_angle

ROBOT = robot_of("arm12")
CHAINS = [arm.chain for arm in ROBOT.arms]


@pytest.fixture(scope="module")
def chain():
    return TorchChain(CHAINS)


@pytest.fixture(scope="module")
def model():
    scene = mujoco.MjSpec()
    scene.compiler.degree = False
    ROBOT.build(scene)
    return scene.compile()


def random_joints(count, seed=0):
    rng = np.random.default_rng(seed)
    low, high = (np.stack([getattr(c, name) for c in CHAINS]) for name in ("lower", "upper"))
    return torch.from_numpy(rng.uniform(low, high, (count, *low.shape)))


def sdk_flange_mm(joints):
    """AgileX's formula, written out from its table (millimetres, rows from base to flange)."""
    half = math.pi / 2
    table = [
        (0, 0, 0, 123),
        (-half, 0, -math.radians(172.22), 0),
        (0, 285.03, -math.radians(102.78), 0),
        (half, -21.98, 0, 250.75),
        (-half, 0, 0, 0),
        (half, 0, 0, 91),
    ]
    frame = np.eye(4)
    for (alpha, a, offset, d), angle in zip(table, joints, strict=True):
        ct, st, ca, sa = math.cos(angle + offset), math.sin(angle + offset), math.cos(alpha), math.sin(alpha)
        frame = frame @ np.array(
            [[ct, -st, 0, a], [st * ca, ct * ca, -sa, -sa * d], [st * sa, ct * sa, ca, ca * d], [0, 0, 0, 1]]
        )
    return frame


def flange_only(chain):
    """The same arm, standing at the origin, without its tool."""
    eye = np.eye(4)
    return SerialChain(eye, chain.links, eye, chain.lower, chain.upper, chain.home, chain.max_velocity)


@pytest.mark.parametrize("side", [0, 1])
def test_zero_pose_is_the_published_one(side):
    pos, rot = TorchChain([flange_only(CHAINS[side])]).forward(torch.zeros(1, 1, 6, dtype=torch.float64))
    np.testing.assert_allclose(pos[0, 0].numpy() * 1000, [56.128, 0.0, 213.266], atol=5e-4)
    want = euler_xyz_to_matrix(torch.tensor([0.0, math.radians(85.0), 0.0], dtype=torch.float64))
    torch.testing.assert_close(rot[0, 0], want, atol=1e-12, rtol=0)


def test_forward_equals_the_published_formula():
    joints = random_joints(20)[:, :1]
    pos, rot = TorchChain([flange_only(CHAINS[0])]).forward(joints)
    for row in range(20):
        want = sdk_flange_mm(joints[row, 0].tolist())
        np.testing.assert_allclose(pos[row, 0].numpy() * 1000, want[:3, 3], atol=1e-9)
        np.testing.assert_allclose(rot[row, 0].numpy(), want[:3, :3], atol=1e-12)


def test_forward_equals_the_simulated_robot(chain, model):
    data, joints = mujoco.MjData(model), random_joints(20, seed=1)
    pos, rot = chain.forward(joints)
    for row in range(20):
        data.qpos[:] = joints[row].flatten().numpy()
        mujoco.mj_kinematics(model, data)
        for arm, side in enumerate(("left", "right")):
            site = data.site(f"{side}_tcp")
            np.testing.assert_allclose(pos[row, arm].numpy(), site.xpos, atol=1e-9)
            np.testing.assert_allclose(rot[row, arm].numpy().ravel(), site.xmat, atol=1e-9)


def test_home_is_upright_symmetric_and_far_from_the_limits(chain):
    pos, rot = chain.forward(chain.home[None])
    want = torch.tensor([[0.30, 0.20, 0.18], [0.30, -0.20, 0.18]], dtype=torch.float64)
    torch.testing.assert_close(pos[0], want, atol=1e-6, rtol=0)
    torch.testing.assert_close(rot[0], torch.eye(3, dtype=torch.float64).expand(2, 3, 3), atol=1e-6, rtol=0)
    assert torch.minimum(chain.home - chain.lower, chain.upper - chain.home).min() > 0.5


def follow(chain, targets, yaws, steps=60):
    """Damped least squares along straight lines from home; returns errors (m, rad) and joints `[m, A, n]`."""
    joints = chain.home.expand(len(targets), *chain.home.shape).clone()
    start = chain.forward(joints)[0]
    turn = torch.zeros(len(targets), len(CHAINS), 3, dtype=torch.float64)
    turn[..., 2] = yaws
    margin = torch.full((len(targets),), math.inf, dtype=torch.float64)
    for step in range(steps + 20):
        share = min(1.0, (step + 1) / steps)
        pos, rot, jac = chain.jacobian(joints)
        spin = matrix_to_axis_angle(euler_xyz_to_matrix(turn * share) @ rot.transpose(-1, -2))
        error = torch.cat([start + (targets - start) * share - pos, spin], -1)[..., None]
        gram = jac @ jac.transpose(-1, -2) + 1e-4 * torch.eye(6, dtype=torch.float64)
        joints = joints + (jac.transpose(-1, -2) @ torch.linalg.solve(gram, error))[..., 0]
        margin = torch.minimum(margin, torch.minimum(joints - chain.lower, chain.upper - joints).amin((1, 2)))
    pos, rot = chain.forward(joints)
    spin = matrix_to_axis_angle(euler_xyz_to_matrix(turn) @ rot.transpose(-1, -2))
    return (targets - pos).norm(dim=-1).amax(-1), spin.norm(dim=-1).amax(-1), margin


def test_workspace_is_reached_from_home_within_the_limits(chain):
    """Where tasks place objects and lift them to, both arms alike, with up to 20 degrees of yaw."""
    left = list(itertools.product((0.26, 0.33, 0.40), (0.04, 0.12, 0.22), (0.05, 0.12, 0.20)))
    targets = torch.tensor([[(x, y, z), (x, -y, z)] for x, y, z in left], dtype=torch.float64)
    for yaw in (-20, 0, 20):
        yaws = torch.tensor([math.radians(yaw), -math.radians(yaw)], dtype=torch.float64)
        error_m, error_rad, margin_rad = follow(chain, targets, yaws)
        assert float(error_m.max()) < 1e-4
        assert float(error_rad.max()) < 1e-3
        assert float(margin_rad.min()) > 0.04


def test_paddles_touch_the_scene_and_arms_touch_objects_only(model):
    for side in ("left", "right"):
        pad = model.geom(f"{side}_pad")
        assert (pad.contype[0], pad.conaffinity[0]) == (GRIPPER, STATIC | OBJECT)
        np.testing.assert_allclose(pad.size, PADDLE_HALF_M)
    classes = {(int(a), int(b)) for a, b in zip(model.geom_contype, model.geom_conaffinity, strict=True)}
    assert classes == {(GRIPPER, STATIC | OBJECT), (ARM, OBJECT), (0, 0)}
    assert STEEL in {model.mat(i).name for i in range(model.nmat)}


def test_actuators_are_joints_in_order(model):
    names = [model.actuator(i).name for i in range(model.nu)]
    assert names == [name for arm in ROBOT.arms for name in arm.joints]
    assert (names[0], names[-1]) == ("left_joint1", "right_joint6")
    np.testing.assert_allclose(
        model.actuator_ctrlrange, np.concatenate([np.stack([c.lower, c.upper], 1) for c in CHAINS])
    )


def test_layout_is_left_then_right_without_gripper():
    embodiment = load_embodiment("arm12")
    assert embodiment.labels == (
        *("l_x", "l_y", "l_z", "l_roll", "l_pitch", "l_yaw"),
        *("r_x", "r_y", "r_z", "r_roll", "r_pitch", "r_yaw"),
    )
    layout = Layout(embodiment, ROBOT.sides)
    action = torch.arange(24, dtype=torch.float64).reshape(2, 12) / 24
    arms = layout.to_arms(action)
    torch.testing.assert_close(arms[..., :6].flatten(1), action)
    assert (arms[..., 6] == 1).all()
    torch.testing.assert_close(layout.to_action(arms), action)
