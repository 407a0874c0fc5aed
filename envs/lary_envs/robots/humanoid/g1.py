"""A semi-humanoid with two seven-joint arms and grippers, after AgiBot's G1.

Kinematics: joint origins, limits, speeds and torques of the G1's URDF in AgiBot's genie_sim (robot G01 with
the OmniPicker gripper), torso leaning forwards by its default 25 degrees. The lift is set so that the
shoulders are 0.46 m above the table: the wrist bends by 100 degrees at most, so from lower ones grippers
cannot point down.

At home, and whenever roll, pitch and yaw are zero, a gripper points down and 20 degrees inwards and closes
along x. Hands that come from their own side reach both sides of the middle and do not meet when they hold one
thing.
"""

from __future__ import annotations

import math

import numpy as np

from lary_envs.kinematics import Matrix, SerialChain, rot_x, rot_z, transform
from lary_envs.robots.humanoid import body
from lary_envs.robots.robot import Arm, Gripper, Robot, register_robot
from lary_envs.scene import CameraPlace

SHOULDER_HEIGHT_M = 0.46
GRIPPER_TILT_RAD = math.radians(20)
_TCP_M = 0.14308  # from the flange to the middle between the finger tips
_QUARTER = math.pi / 2
# The first joint's axis points sideways. The right shoulder is published 2.1 mm further out than the left.
_SHOULDER_M, _FIRST_JOINT_M = 0.025, {"left": 0.1859, "right": 0.1880}
_UPPER_ARM_M, _FOREARM_M, _HAND_M = 0.305, 0.1975, 0.1805
_LOWER_RAD = (-3.14, -2.09, -3.10, -1.48, -3.10, -1.74, -3.10)
_UPPER_RAD = (3.14, 1.48, 3.10, 1.48, 3.10, 1.74, 3.10)
_SPEED_RAD_S = 3.14
# TCP of the left arm at (0.43, 0.16, 0.18). Of the postures that a search from random starts found for this
# pose, this one follows straight lines to 118 of 120 poses in and around the tasks; with the elbow 6 cm lower
# it would be 115, with the elbow 10 cm lower 108, because joint 6 comes to its limit. 23 degrees lie between
# every joint and its limits.
HOME_RAD = (0.864657, -1.074060, 2.124150, 1.077766, 0.815427, -1.187700, -0.358082)


def _joint(translation: tuple[float, float, float], rpy_quarters: tuple[int, int, int]) -> Matrix:
    """Return a joint's origin from its URDF: metres, and roll, pitch, yaw in quarter turns."""
    roll, pitch, yaw = (_QUARTER * turns for turns in rpy_quarters)
    rot_y = rot_z(_QUARTER) @ rot_x(pitch) @ rot_z(-_QUARTER)
    return transform(rot_z(yaw) @ rot_y @ rot_x(roll), translation)


def _chain(side: str) -> SerialChain:
    left = side == "left"
    sign = 1 if left else -1
    shoulders = transform(body.LEAN, [0.0, 0.0, SHOULDER_HEIGHT_M])
    links = (
        _joint((0, 0, _FIRST_JOINT_M[side]), (0, 0, 0)),
        _joint((0, 0, 0), (-1, 0, sign)),
        _joint((0, -_UPPER_ARM_M, 0), (-1, sign, 2)),
        _joint((0, 0, 0), (-1, 0, 2)),
        _joint((0, -_FOREARM_M, 0), (-1, 0, -2)),
        _joint((0, 0, 0), (-1, 0, 0)),
        _joint((0, -_HAND_M, 0), (1, 0, 0)),
    )
    lower, upper, home = (np.array(values) for values in (_LOWER_RAD, _UPPER_RAD, HOME_RAD))
    tilt = rot_x(math.pi + GRIPPER_TILT_RAD)
    return SerialChain(
        base=shoulders @ _joint((0, sign * _SHOULDER_M, 0), (-1, 0, 0 if left else 2)),
        links=np.stack(links),
        tool=transform(tilt if left else rot_z(math.pi) @ tilt.T, [0.0, 0.0, _TCP_M]),
        # The right arm is the left one's mirror image when all its joints turn the other way.
        lower=lower if left else -upper,
        upper=upper if left else -lower,
        home=home if left else -home,
        max_velocity=np.full(7, _SPEED_RAD_S),
    )


GRIPPERS = {
    side: Gripper((f"{side}_finger_1", f"{side}_finger_2"), open_m=0.05) for side in ("left", "right")
}


def _arm(side: str) -> Arm:
    low_y, high_y = (-0.10, 0.28) if side == "left" else (-0.28, 0.10)
    return Arm(
        side=side,
        chain=_chain(side),
        joints=tuple(f"{side}_joint{i}" for i in range(1, 8)),
        gripper=GRIPPERS[side],
        workspace_m=((0.36, low_y, 0.0), (0.50, high_y, 0.30)),
    )


ARMS = (_arm("left"), _arm("right"))

HUMANOID = register_robot(
    Robot(
        name="humanoid",
        embodiment="arm16",
        arms=ARMS,
        build=lambda scene: body.build_humanoid(scene, ARMS, GRIPPERS, SHOULDER_HEIGHT_M),
        cameras={
            "front": CameraPlace((1.26, 0.0, 0.76), (0.385, 0.0, 0.14), 39.0),
            "agent": CameraPlace(*body.head_view(SHOULDER_HEIGHT_M), 66.0),  # what the head sees
        },
        wrist_cameras=("wrist_left", "wrist_right"),
        overview=CameraPlace((1.75, 1.15, 1.05), (0.20, 0.0, 0.12), 42.0),
        contacts=(40, 160),  # the experts' episodes need at most 24 contacts and 98 rows
        table_near_m=-0.12,
    )
)
