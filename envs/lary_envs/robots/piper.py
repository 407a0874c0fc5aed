"""Two Piper-like arms on pedestals, with paddles instead of grippers; built from primitives.

Kinematics: AgileX `piper_sdk`, `kinematics/piper_fk.py`, modified Denavit-Hartenberg parameters with the
2 degree offset of joints 2 and 3; joint and speed limits: the table in its CHANGELOG. Joint 5 reaches only 70
degrees: pedestals of 20 cm and paddles that hang straight down from the flanges keep it away from its limits,
and from zero, where the wrist is singular.
"""

from __future__ import annotations

import math
from typing import Literal

import mujoco
import numpy as np

from lary_envs.kinematics import SerialChain, craig_links, transform
from lary_envs.robots.robot import Arm, Robot, register_robot
from lary_envs.scene import (
    BOX,
    CYLINDER,
    DARK,
    HITS_TASK,
    STEEL,
    WHITE,
    CameraPlace,
    Part,
    add_hinge,
    add_materials,
    add_part,
    placed,
    position_servo,
)

type Side = Literal["left", "right"]

PEDESTAL_M, BASE_X_M, BASE_Y_M = 0.20, -0.02, 0.25
# The TCP is the centre of the paddle, this far below the flange.
TCP_M = 0.10
PADDLE_HALF_M = (0.035, 0.010, 0.045)  # forward, across (the squeezing faces), up
# Paddle upright, TCP at (0.30, 0.20, 0.18): beside the objects and above them, inside every camera. The only
# solution found from 480 random starts. From here 98 of 99 poses of the workspace (up to 25 degrees of yaw)
# are reached on straight lines, every joint at least 3 degrees from its limits; the other is out of reach.
_HOME_RAD = (-0.15499674, 2.02232203, -0.99664357, 0.0, 0.63238433, -0.15499674)
_MIRROR = np.array([-1.0, 1.0, 1.0, -1.0, 1.0, -1.0])  # of joint angles, left to right
_KP = 2000.0  # MuJoCo Menagerie's Piper, all joints
# The SDK accepts 8 N m (`JointMitCtrl`), and its Q&A says that the motor executes four times the value.
_TORQUE_NM = 32.0
# Link masses in kg: the published 4.2 kg of the arm, shared out by volume.
_BASE_KG, _MASS_KG, _PADDLE_KG = 1.0, (0.7, 1.1, 0.6, 0.4, 0.3, 0.1), 0.12
# The arms can be told apart by colour.
_PAD_RGBA = {"left": (0.10, 0.30, 0.95, 1.0), "right": (0.98, 0.50, 0.05, 1.0)}

_LINKS: tuple[tuple[Part, ...], ...] = (
    (Part((0, 0, -0.055), (0, 0, -0.03), 0.046, WHITE, CYLINDER), Part((0, 0, -0.03), (0, 0, 0.0), 0.042)),
    (
        Part((0, 0, -0.052), (0, 0, 0.052), 0.040, DARK, CYLINDER),
        Part((0.02, 0, 0), (0.265, 0, 0), 0.031),
    ),
    (
        Part((0, 0, -0.046), (0, 0, 0.046), 0.036, DARK, CYLINDER),
        Part((0, 0, 0), (-0.02198, -0.05, 0), 0.030),
        Part((-0.02198, -0.05, 0), (-0.02198, -0.16, 0), 0.027),
    ),
    (Part((0, 0, -0.085), (0, 0, -0.03), 0.029, DARK, CYLINDER), Part((0, 0, -0.03), (0, 0, 0), 0.026)),
    (Part((0, 0, -0.036), (0, 0, 0.036), 0.027, DARK, CYLINDER), Part((0, 0, 0), (0, -0.055, 0), 0.025)),
    (Part((0, 0, -0.034), (0, 0, 0), 0.030, STEEL, CYLINDER), Part((0, 0, 0), (0, 0, 0.06), 0.009, STEEL)),
)


def joint_names(side: Side) -> tuple[str, ...]:
    """Return the joint names of one arm, base to flange."""
    return tuple(f"{side}_joint{i}" for i in range(1, 7))


def chain(side: Side) -> SerialChain:
    """Return the kinematics of one arm; the right one stands and rests mirrored."""
    sign = 1.0 if side == "left" else -1.0
    return SerialChain(
        base=transform(np.eye(3), [BASE_X_M, sign * BASE_Y_M, PEDESTAL_M]),
        links=craig_links(
            a_m=(0.0, 0.0, 0.28503, -0.02198, 0.0, 0.0),
            d_m=(0.123, 0.0, 0.0, 0.25075, 0.0, 0.091),
            alpha_rad=(0.0, -math.pi / 2, 0.0, math.pi / 2, -math.pi / 2, math.pi / 2),
            theta_rad=(0.0, math.radians(-172.22), math.radians(-102.78), 0.0, 0.0, 0.0),
        ),
        tool=transform(np.diag([-1.0, 1.0, -1.0]), [0.0, 0.0, TCP_M]),  # z up when the flange points down
        lower=np.array([-2.6179, 0.0, -2.967, -1.745, -1.22, -2.09439]),
        upper=np.array([2.6179, 3.14, 0.0, 1.745, 1.22, 2.09439]),
        home=np.array(_HOME_RAD) * (1.0 if side == "left" else _MIRROR),
        max_velocity=np.full(6, 3.0),
    )


def _workspace(side: Side) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    across = (-0.05, 0.36) if side == "left" else (-0.36, 0.05)
    return (0.23, across[0], 0.0), (0.46, across[1], 0.28)


def build_piper(scene: mujoco.MjSpec) -> None:
    """Add both arms and their actuators."""
    add_materials(scene)
    for arm in PIPERS.arms:
        _add_arm(scene, arm)


def _add_arm(scene: mujoco.MjSpec, arm: Arm) -> None:
    base = scene.worldbody.add_body(name=f"{arm.side}_base", **placed(arm.chain.base))
    _add_base(base)
    body = base
    for index, (frame, parts) in enumerate(zip(arm.chain.links, _LINKS, strict=True)):
        body = body.add_body(name=f"{arm.side}_link{index + 1}", gravcomp=1, **placed(frame))
        add_hinge(body, arm.joints[index], arm.chain.lower[index], arm.chain.upper[index])
        for part in parts:
            add_part(body, part, _MASS_KG[index] / len(parts))
    _add_paddle(body, arm)
    for name, lower, upper in zip(arm.joints, arm.chain.lower, arm.chain.upper, strict=True):
        position_servo(scene, name, _KP, _TORQUE_NM, (lower, upper))


def _add_base(base: mujoco.MjsBody) -> None:
    """Pedestal (below the base frame), base plate and the housing of the first motor."""
    still = {"contype": 0, "conaffinity": 0, "mass": _BASE_KG}
    base.add_geom(type=BOX, pos=[0, 0, -0.1], size=[0.055, 0.055, 0.1], material=STEEL, **still)
    base.add_geom(type=BOX, pos=[0, 0, -0.193], size=[0.085, 0.085, 0.007], material=DARK, **still)
    base.add_geom(type=BOX, pos=[-0.015, 0, 0.008], size=[0.07, 0.05, 0.008], material=DARK, **still)
    add_part(base, Part((0, 0, 0.016), (0, 0, 0.07), 0.045, WHITE, CYLINDER), _BASE_KG)


def _add_paddle(flange: mujoco.MjsBody, arm: Arm) -> None:
    """A plate in the TCP frame; friction with priority, so that an object's own does not matter."""
    paddle = flange.add_body(name=f"{arm.side}_paddle", gravcomp=1, **placed(arm.chain.tool))
    paddle.add_geom(
        name=f"{arm.side}_pad", type=BOX, size=list(PADDLE_HALF_M), rgba=list(_PAD_RGBA[arm.side]),
        mass=_PADDLE_KG, condim=4, friction=[1.2, 0.02, 0.0001], priority=1, solref=[0.01, 1], **HITS_TASK,
    )  # fmt: skip
    paddle.add_geom(
        type=BOX, pos=[0, 0, PADDLE_HALF_M[2]], size=[0.022, 0.014, 0.010], material=DARK, mass=0.02,
        **HITS_TASK,
    )  # fmt: skip
    paddle.add_site(name=f"{arm.side}_tcp", size=[0.005, 0, 0])


PIPERS = register_robot(
    Robot(
        name="pipers",
        embodiment="arm12",
        arms=tuple(
            Arm(side, chain(side), joint_names(side), None, _workspace(side)) for side in ("left", "right")
        ),
        build=build_piper,
        cameras={
            "front": CameraPlace((1.00, 0.0, 0.68), (0.26, 0.0, 0.12), 42.0),
            "agent": CameraPlace((0.04, 0.0, 1.02), (0.345, 0.0, 0.04), 45.0),
        },
        wrist_cameras=(),
        overview=CameraPlace((1.30, 0.85, 0.95), (0.16, 0.0, 0.12), 44.0),
        contacts=(32, 96),  # experts and random targets need at most 12 contacts and 48 rows
        table_near_m=-0.15,
    )
)
