"""The semi-humanoid: published kinematics, mirrored arms, home posture, and the order of its actions."""

import math

import mujoco
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from lary_envs.controller import EndEffectorController
from lary_envs.kinematics.chain import TorchChain
from lary_envs.robots.humanoid.g1 import ARMS, GRIPPER_TILT_RAD, HOME_RAD, HUMANOID
from lary_envs.robots.robot import robot_of
from lary_envs.scene.table import build_model
from lary_policy.actions.embodiment import load_embodiment

HALF, QUARTER = math.pi, math.pi / 2
# Origins (x, y, z, roll, pitch, yaw) of the arms' joints in the URDF of AgiBot's G1, first joint to flange.
URDF = {
    "left": (
        (0, 0, 0.1859, 0, 0, 0),
        (0, 0, 0, -QUARTER, 0, QUARTER),
        (0, -0.305, 0, -QUARTER, QUARTER, HALF),
        (0, 0, 0, -QUARTER, 0, HALF),
        (0, -0.1975, 0, -QUARTER, 0, -HALF),
        (0, 0, 0, -QUARTER, 0, 0),
        (0, -0.1805, 0, QUARTER, 0, 0),
    ),
    "right": (
        (0, 0, 0.188, 0, 0, 0),
        (0, 0, 0, -QUARTER, 0, -QUARTER),
        (0, -0.305, 0, -QUARTER, -QUARTER, HALF),
        (0, 0, 0, -QUARTER, 0, HALF),
        (0, -0.1975, 0, -QUARTER, 0, -HALF),
        (0, 0, 0, -QUARTER, 0, 0),
        (0, -0.1805, 0, QUARTER, 0, 0),
    ),
}
BASE = {"left": (0, 0.025, 0, -QUARTER, 0, 0), "right": (0, -0.025, 0, -QUARTER, 0, HALF)}
TORSO_LEAN = 0.4363
MIRROR = np.diag([1.0, -1.0, 1.0])
CHAIN = TorchChain([arm.chain for arm in ARMS])


class NoTask:
    """A scene with nothing but the robot."""

    def build(self, scene):
        """Add nothing."""


@pytest.fixture(scope="module")
def model():
    return build_model(NoTask(), "arm16")


def frame(x, y, z, roll, pitch, yaw):
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = Rotation.from_euler("xyz", (roll, pitch, yaw)).as_matrix(), (x, y, z)
    return out


def random_joints(count, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform(CHAIN.lower.numpy(), CHAIN.upper.numpy(), (count, 2, 7)))


def put(model, joints):
    """Return MjData with both arms at `[2, 7]` joint angles and open grippers."""
    data = mujoco.MjData(model)
    for arm, angles in zip(ARMS, joints, strict=True):
        for name, angle in zip(arm.joints, angles, strict=True):
            data.qpos[model.joint(name).qposadr[0]] = angle
        for name in arm.gripper.fingers:
            data.qpos[model.joint(name).qposadr[0]] = arm.gripper.open_m
    mujoco.mj_forward(model, data)
    return data


@pytest.mark.parametrize("index", [0, 1])
def test_flange_follows_the_published_joint_origins(index):
    arm = ARMS[index]
    shoulders = frame(0, 0, 0.46, 0, TORSO_LEAN, 0) @ frame(*BASE[arm.side])
    for joints in random_joints(20):
        flange = shoulders
        for origin, angle in zip(URDF[arm.side], joints[index].tolist(), strict=True):
            flange = flange @ frame(*origin) @ frame(0, 0, 0, 0, 0, angle)
        ours = CHAIN.frames(joints[None])[0][0, index, -1].numpy()
        np.testing.assert_allclose(ours, flange, atol=1e-14)


def test_scene_and_chain_agree(model):
    for joints in random_joints(20, seed=1):
        data = put(model, joints.tolist())
        pos, rot = CHAIN.forward(joints[None])
        for index, arm in enumerate(ARMS):
            site = data.site(f"tcp_{arm.side}")
            np.testing.assert_allclose(site.xpos, pos[0, index], atol=1e-12)
            np.testing.assert_allclose(site.xmat.reshape(3, 3), rot[0, index], atol=1e-12)


def test_arms_are_mirror_images():
    left = random_joints(20, seed=2)[:, 0]
    pos, rot = CHAIN.forward(torch.stack([left, -left], 1))
    apart = 0.1880 - 0.1859  # the right shoulder is published 2.1 mm further out
    mirrored = pos[:, 0].numpy() * MIRROR.diagonal() - [0, apart, 0]
    np.testing.assert_allclose(mirrored, pos[:, 1], atol=1e-12)
    np.testing.assert_allclose(MIRROR @ rot[:, 0].numpy() @ MIRROR, rot[:, 1], atol=1e-12)


def test_home_points_the_grippers_down_and_inwards(model):
    pos, rot = CHAIN.forward(CHAIN.home[None])
    np.testing.assert_allclose(pos[0], [[0.43, 0.16, 0.18], [0.43, -0.1621, 0.18]], atol=1e-6)
    np.testing.assert_allclose(rot[0], np.stack([np.eye(3)] * 2), atol=1e-5)
    data = put(model, CHAIN.home.tolist())
    for side, inwards in (("left", -1.0), ("right", 1.0)):
        approach = data.body(f"{side}_hand").xmat.reshape(3, 3)[:, 2]
        wanted = [0.0, inwards * math.sin(GRIPPER_TILT_RAD), -math.cos(GRIPPER_TILT_RAD)]
        np.testing.assert_allclose(approach, wanted, atol=1e-5)
        fingers = [data.geom(f"pad_{side}_finger_{i}").xpos for i in (1, 2)]
        closing = fingers[0] - fingers[1]
        assert abs(closing[0]) > 0.1
        np.testing.assert_allclose(closing[1:], 0.0, atol=1e-5)
    assert data.ncon == 0


def test_home_is_far_from_all_joint_limits():
    margin = torch.minimum(CHAIN.home - CHAIN.lower, CHAIN.upper - CHAIN.home)
    assert float(margin.min()) > math.radians(22)
    assert len(HOME_RAD) == 7


@pytest.mark.parametrize(("ahead_m", "lean_rad"), [(0.40, 0.0), (0.45, 0.0), (0.50, 0.27)])
def test_straight_lines_lead_from_home_to_all_corners(ahead_m, lean_rad):
    """The commanded joints arrive, and stay off their limits, for mirrored targets of both arms at once."""
    corners = torch.tensor([(ahead_m, y, z) for y in (-0.04, 0.20) for z in (0.02, 0.14, 0.26)])
    controller = EndEffectorController(len(corners), embodiment="arm16")
    target = torch.zeros(len(corners), 16)
    target[:, 0:3], target[:, 3:6] = corners, corners * torch.tensor([1.0, -1.0, 1.0])
    half = torch.tensor([0.0, -math.sin(lean_rad / 2), 0.0, math.cos(lean_rad / 2)])
    target[:, 6:10], target[:, 10:14], target[:, 14:] = half, half, 1.0
    for _ in range(30):
        ctrl = controller.command(target).double()
    joints = torch.stack([ctrl[:, 0:7], ctrl[:, 8:15]], 1)
    assert float((controller.pose() - target)[:, :6].abs().max()) < 1e-3
    assert float((controller.pose() - target)[:, 6:14].abs().max()) < 5e-3
    margin = torch.minimum(joints - CHAIN.lower, CHAIN.upper - joints)
    assert float(margin.min()) > 0.05


def test_layout_is_agibots_with_the_right_gripper_first():
    arm16 = load_embodiment("arm16")
    assert arm16.labels == (
        *("l_x", "l_y", "l_z", "r_x", "r_y", "r_z"),
        *("l_qx", "l_qy", "l_qz", "l_qw", "r_qx", "r_qy", "r_qz", "r_qw"),
        *("r_gripper", "l_gripper"),
    )
    assert arm16.group_indices()["position"] == tuple(range(6))
    assert arm16.group_indices()["orientation"] == tuple(range(6, 14))
    assert arm16.group_indices()["gripper"] == (14, 15)
    controller = EndEffectorController(1, embodiment="arm16")
    target = controller.pose()
    np.testing.assert_allclose(target[0, 6:14], [0, 0, 0, 1, 0, 0, 0, 1], atol=1e-5)
    target[0, 14] = 0.0  # closes the right gripper
    ctrl = controller.command(target)[0]
    assert float(ctrl[7]) == pytest.approx(0.05)
    assert float(ctrl[15]) == 0.0


def test_robot_is_registered_with_its_cameras_and_actuators(model):
    assert robot_of("arm16") is HUMANOID
    assert HUMANOID.camera_names == ("front", "agent", "wrist_left", "wrist_right")
    assert {model.camera(i).name for i in range(model.ncam)} == {*HUMANOID.camera_names, "overview"}
    expected = [name for arm in ARMS for name in (*arm.joints, arm.gripper.fingers[0])]
    assert [model.actuator(i).name for i in range(model.nu)] == expected
    assert HUMANOID.num_actuators == model.nu == 16


def test_fingers_mirror_each_other_and_open_ten_centimetres(model):
    data = put(model, CHAIN.home.tolist())
    data.ctrl[:] = [*HOME_RAD, 0.02, *(-angle for angle in HOME_RAD), 0.05]
    for _ in range(100):
        mujoco.mj_step(model, data)
    left, right = ([float(data.joint(name).qpos[0]) for name in arm.gripper.fingers] for arm in HUMANOID.arms)
    np.testing.assert_allclose(left, 0.02, atol=5e-4)
    np.testing.assert_allclose(right, 0.05, atol=5e-4)
