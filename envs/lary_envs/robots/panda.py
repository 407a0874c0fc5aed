"""A Panda-like arm built from primitives: published kinematics, approximate looks, no mesh files.

Kinematics: Franka Emika's documentation, "Denavit-Hartenberg parameters" (Craig's convention), flange at
0.107 m, hand turned by -45 degrees about the flange axis, tool centre point (TCP) 0.1034 m from the hand.
"""

from __future__ import annotations

import math

import mujoco
import numpy as np

from lary_envs.kinematics import SerialChain, craig_links, rot_z, transform
from lary_envs.robots.robot import Arm, Gripper, Robot, register_robot
from lary_envs.scene import (
    CYLINDER,
    DARK,
    STEEL,
    WHITE,
    CameraPlace,
    Part,
    add_camera,
    add_gripper_servo,
    add_hand,
    add_hinge,
    add_materials,
    add_part,
    placed,
    position_servo,
    quat_z,
)

FLANGE_M, HAND_YAW_RAD, TCP_M = 0.107, -math.pi / 4, 0.1034
# Gripper straight down, TCP at (0.40, 0, 0.22): outside the objects, inside every camera.
HOME_RAD = (0.0, -0.27684350, 0.0, -2.68210970, 0.0, 2.40526619, math.pi / 4)
JOINTS = tuple(f"joint{i}" for i in range(1, 8))
GRIPPER = Gripper(fingers=("finger_left", "finger_right"), open_m=0.04)
# Stiff servo gains: kp of MuJoCo Menagerie's Panda.
_KP = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0)
_TORQUE_NM = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)  # Franka's data sheet
# Link masses in kg as in the identified model of Gaz et al. 2019 (link 1 to 7).
_MASS_KG = (4.97, 0.647, 3.229, 3.588, 1.226, 1.667, 0.735)

CHAIN = SerialChain(
    base=np.eye(4),
    links=craig_links(
        a_m=(0.0, 0.0, 0.0, 0.0825, -0.0825, 0.0, 0.088),
        d_m=(0.333, 0.0, 0.316, 0.0, 0.384, 0.0, 0.0),
        alpha_rad=(0.0, -math.pi / 2, math.pi / 2, math.pi / 2, -math.pi / 2, math.pi / 2, math.pi / 2),
        theta_rad=(0.0,) * 7,
    ),
    # z up, x forward, y left when the gripper points straight down
    tool=transform(rot_z(HAND_YAW_RAD) @ np.diag([1.0, -1.0, -1.0]), [0.0, 0.0, FLANGE_M + TCP_M]),
    lower=np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973]),
    upper=np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973]),
    home=np.array(HOME_RAD),
    max_velocity=np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61]),
)

_BASE = (
    Part((0, 0, 0.0), (0, 0, 0.03), 0.10, STEEL, CYLINDER),
    Part((-0.06, 0, 0.06), (0, 0, 0.06), 0.06),
    Part((0, 0, 0.03), (0, 0, 0.15), 0.065, WHITE, CYLINDER),
)
_LINKS: tuple[tuple[Part, ...], ...] = (
    (Part((0, 0, -0.17), (0, 0, 0), 0.06),),
    (Part((0, 0, -0.065), (0, 0, 0.065), 0.062, DARK, CYLINDER), Part((0, 0, 0), (0, -0.08, 0), 0.058)),
    (Part((0, 0, -0.22), (0, 0, -0.05), 0.056), Part((0, 0, -0.05), (0.0825, 0, 0), 0.05)),
    (Part((0, 0, -0.06), (0, 0, 0.06), 0.056, DARK, CYLINDER), Part((0, 0, 0), (-0.0825, 0.08, 0), 0.05)),
    (Part((0, 0, -0.29), (0, 0, -0.16), 0.052), Part((0, 0.01, -0.16), (0, 0.03, -0.02), 0.045)),
    (Part((0, 0, -0.05), (0, 0, 0.05), 0.05, DARK, CYLINDER), Part((0, 0, 0), (0.088, 0, 0), 0.046)),
    (Part((0, 0, -0.03), (0, 0, 0.07), 0.045), Part((0, 0, 0.07), (0, 0, 0.107), 0.04, DARK, CYLINDER)),
)
# In the frame of the hand (z along the fingers, x away from the base): sees both fingertips and the table.
_WRIST_CAMERA = CameraPlace((0.085, 0.0, 0.0), (0.04, 0.0, 0.13), 75.0, up=(1.0, 0.0, 0.0))


def build_panda(scene: mujoco.MjSpec) -> None:
    """Add arm, gripper, actuators and the `wrist` camera; the base stands at the world's origin."""
    add_materials(scene)
    body = scene.worldbody.add_body(name="link0")
    for part in _BASE:
        add_part(body, part, 1.0)
    for index, parts in enumerate(_LINKS):
        body = body.add_body(name=f"link{index + 1}", gravcomp=1, **placed(CHAIN.links[index]))
        add_hinge(body, JOINTS[index], CHAIN.lower[index], CHAIN.upper[index])
        for part in parts:
            add_part(body, part, _MASS_KG[index] / len(parts))
    hand = body.add_body(name="hand", pos=[0, 0, FLANGE_M], quat=quat_z(HAND_YAW_RAD), gravcomp=1)
    add_hand(hand, GRIPPER, tcp_site="tcp", tcp_m=TCP_M)
    add_camera(hand, "wrist", _WRIST_CAMERA)
    for name, kp, torque, *limits in zip(JOINTS, _KP, _TORQUE_NM, CHAIN.lower, CHAIN.upper, strict=True):
        position_servo(scene, name, kp, torque, (limits[0], limits[1]))
    add_gripper_servo(scene, GRIPPER)


PANDA = register_robot(
    Robot(
        name="panda",
        embodiment="arm7",
        arms=(Arm("single", CHAIN, JOINTS, GRIPPER, ((0.20, -0.40, 0.0), (0.80, 0.40, 0.55))),),
        build=build_panda,
        # Close to the workspace: a pixel of a 112 px frame is about 5 mm on the table.
        cameras={
            "front": CameraPlace((1.18, 0.0, 0.72), (0.485, 0.0, 0.105), 34.0),
            "agent": CameraPlace((0.50, -0.95, 0.62), (0.48, 0.0, 0.11), 33.0),
        },
        wrist_cameras=("wrist",),
        overview=CameraPlace((1.60, 1.00, 1.05), (0.33, 0.0, 0.22), 42.0),
        contacts=(32, 96),  # the experts' episodes need at most 12 contacts and 49 rows
    )
)
