"""Bodies, servos and looks of the semi-humanoid: primitives of about the sizes in the G1's URDF."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import mujoco
import numpy as np

from lary_envs.kinematics import Matrix, rot_x, rot_z, transform
from lary_envs.robots.robot import Arm, Gripper
from lary_envs.scene import (
    BOX,
    CYLINDER,
    DARK,
    HITS_TASK,
    STEEL,
    WHITE,
    CameraPlace,
    Part,
    Vec3,
    add_camera,
    add_gripper_servo,
    add_hinge,
    add_materials,
    add_part,
    placed,
    position_servo,
    quat_z,
)

type Rgba = tuple[float, float, float, float]
LEAN_RAD = 0.4363  # of the torso, forwards: the default of AgiBot's simulator
LEAN: Matrix = rot_z(math.pi / 2) @ rot_x(LEAN_RAD) @ rot_z(-math.pi / 2)
_TRUNK_M = 0.305  # waist to shoulders
_HEAD_M = (0.050, 0.0, 0.501)  # centre of the head from the waist, in the frame of the trunk
_COLUMN_M = 0.131  # the waist is this far ahead of the lift
_FLOOR_M = -0.75
GLOW = "robot_glow"
# The usual step of a command, 0.03 rad, asks for less than the published torque. Twice as stiff, some joints
# run into that limit at every step, and the hand darts sideways 20 times a second.
_KP = (1500.0, 1500.0, 1500.0, 1500.0, 750.0, 750.0, 750.0)
_TORQUE_NM = (60.0, 60.0, 60.0, 60.0, 30.0, 30.0, 30.0)
_MASS_KG = (0.494, 0.462, 0.500, 0.275, 0.251, 0.266, 0.062)
_PALM_KG, _FINGER_KG = 0.236, 0.06
_TIP_RGBA = {"left": (0.10, 0.30, 0.95, 1.0), "right": (0.98, 0.50, 0.05, 1.0)}  # tells the hands apart
_FINGER_KP, _FINGER_FORCE_N = 3000.0, 40.0  # 20 N a finger, to hold long things away from their middle
_FINGER_DAMPING = 100.0  # N s/m: a finger moves at most 0.2 m/s and does not bounce off what it closes on
_LINKS: tuple[tuple[Part, ...], ...] = (
    (Part((0, 0, -0.10), (0, 0, 0), 0.055),),
    (Part((0, 0, -0.055), (0, 0, 0.055), 0.054, DARK, CYLINDER), Part((0, 0, 0), (0, -0.13, 0), 0.050)),
    (Part((0, 0, -0.16), (0, 0, -0.03), 0.046),),
    (Part((0, 0, -0.048), (0, 0, 0.048), 0.047, DARK, CYLINDER), Part((0, 0, 0), (0, -0.09, 0), 0.043)),
    (Part((0, 0, -0.095), (0, 0, -0.02), 0.040),),
    (Part((0, 0, -0.042), (0, 0, 0.042), 0.041, DARK, CYLINDER), Part((0, 0, 0), (0, -0.115, 0), 0.037)),
    (Part((0, 0, -0.045), (0, 0, 0.0), 0.031, STEEL, CYLINDER),),
)


def build_humanoid(
    scene: mujoco.MjSpec, arms: Sequence[Arm], grippers: Mapping[str, Gripper], shoulder_height_m: float
) -> None:
    """Add torso, head, arms with wrist cameras and grippers (by side), and actuators."""
    add_materials(scene)
    scene.add_material(name=GLOW, rgba=[0.35, 0.85, 0.95, 1], emission=0.6, specular=0.2, shininess=0.3)
    _add_base(scene.worldbody, shoulder_height_m)
    trunk = scene.worldbody.add_body(name="trunk", **placed(_waist(shoulder_height_m)))
    _add_trunk(trunk)
    _add_head(trunk)
    for arm in arms:
        _add_arm(scene, arm, grippers[arm.side])
        limits = zip(arm.chain.lower, arm.chain.upper, strict=True)
        for name, kp, torque, (low, high) in zip(arm.joints, _KP, _TORQUE_NM, limits, strict=True):
            position_servo(scene, name, kp, torque, (low, high))
        add_gripper_servo(scene, grippers[arm.side], kp=_FINGER_KP, force_n=_FINGER_FORCE_N)


def head_view(shoulder_height_m: float) -> tuple[Vec3, Vec3]:
    """Return where the head's camera is and what it looks at, in the world frame."""
    eyes = _waist(shoulder_height_m) @ np.array([_HEAD_M[0] + 0.12, 0.0, _HEAD_M[2] + 0.02, 1.0])
    return (float(eyes[0]), 0.0, float(eyes[2])), (0.46, 0.0, 0.0)


def _waist(shoulder_height_m: float) -> Matrix:
    return transform(LEAN, np.array([0.0, 0.0, shoulder_height_m]) - LEAN[:, 2] * _TRUNK_M)


def _add_looks(
    body: mujoco.MjsBody, shape: mujoco.mjtGeom, pos: Vec3, size: Vec3, material: str, pitch_rad: float = 0.0
) -> None:
    """Add a geom that touches nothing."""
    quat = [math.cos(pitch_rad / 2), 0.0, math.sin(pitch_rad / 2), 0.0]
    body.add_geom(type=shape, pos=pos, size=size, quat=quat, material=material, contype=0, conaffinity=0)


def _add_base(world: mujoco.MjsBody, shoulder_height_m: float) -> None:
    """Mobile base and lift, behind and under the table."""
    waist = _waist(shoulder_height_m)[:3, 3]
    x = float(waist[0]) - _COLUMN_M
    column = (float(waist[2]) + 0.08 - _FLOOR_M) / 2
    _add_looks(world, BOX, (x, 0, _FLOOR_M + 0.17), (0.28, 0.22, 0.11), WHITE)
    _add_looks(world, BOX, (x, 0, _FLOOR_M + 0.04), (0.26, 0.20, 0.04), DARK)
    _add_looks(world, BOX, (x - 0.109, 0, _FLOOR_M + column), (0.10, 0.13, column), WHITE)
    for side in (-1, 1):
        _add_looks(world, BOX, (x + 0.06, side * 0.10, float(waist[2])), (0.12, 0.025, 0.066), STEEL)


def _add_trunk(trunk: mujoco.MjsBody) -> None:
    """Waist, chest and shoulders; z along the spine, x out of the chest."""
    ellipsoid = mujoco.mjtGeom.mjGEOM_ELLIPSOID
    for part in (
        Part((0, -0.085, 0), (0, 0.085, 0), 0.075, DARK, CYLINDER),
        Part((0, 0, 0.02), (0, 0, 0.12), 0.080, STEEL),
        Part((-0.01, -0.10, 0.305), (-0.01, 0.10, 0.305), 0.075),
        Part((0, -0.135, 0.305), (0, 0.135, 0.305), 0.056, DARK, CYLINDER),
        Part((0, 0, 0.35), (0, 0, 0.46), 0.038, DARK, CYLINDER),
    ):
        trunk.add_geom(
            type=part.shape, fromto=[*part.start, *part.end], size=[part.radius, 0, 0],
            material=part.material, contype=0, conaffinity=0,
        )  # fmt: skip
    _add_looks(trunk, ellipsoid, (-0.005, 0, 0.225), (0.098, 0.150, 0.145), WHITE)
    _add_looks(trunk, ellipsoid, (0.055, 0, 0.235), (0.048, 0.085, 0.075), DARK)
    _add_looks(trunk, CYLINDER, (0.100, 0, 0.245), (0.016, 0.006, 0), GLOW, math.pi / 2)


def _add_head(trunk: mujoco.MjsBody) -> None:
    """Head with a dark visor and two eyes."""
    ellipsoid, sphere = mujoco.mjtGeom.mjGEOM_ELLIPSOID, mujoco.mjtGeom.mjGEOM_SPHERE
    head = trunk.add_body(name="head", pos=_HEAD_M)
    _add_looks(head, ellipsoid, (0, 0, 0), (0.088, 0.096, 0.105), WHITE)
    _add_looks(head, ellipsoid, (0.030, 0, 0.005), (0.066, 0.082, 0.068), DARK)
    for side in (-1, 1):
        _add_looks(head, sphere, (0.083, side * 0.032, 0.015), (0.013, 0, 0), GLOW)
        _add_looks(head, CYLINDER, (0, side * 0.094, 0), (0.035, 0.012, 0), STEEL)


def _add_arm(scene: mujoco.MjSpec, arm: Arm, gripper: Gripper) -> None:
    chain = arm.chain
    body = scene.worldbody.add_body(name=f"{arm.side}_link0", **placed(chain.base))
    for index, parts in enumerate(_LINKS):
        body = body.add_body(name=f"{arm.side}_link{index + 1}", gravcomp=1, **placed(chain.links[index]))
        add_hinge(body, arm.joints[index], chain.lower[index], chain.upper[index])
        for part in parts:
            add_part(body, part, _MASS_KG[index] / len(parts))
    body.add_site(name=f"tcp_{arm.side}", size=[0.005, 0, 0], **placed(chain.tool))
    turn = math.pi / 2 if arm.side == "left" else -math.pi / 2
    hand = body.add_body(name=f"{arm.side}_hand", quat=quat_z(turn), gravcomp=1)
    _add_gripper(hand, gripper, _TIP_RGBA[arm.side])
    add_camera(hand, f"wrist_{arm.side}", _wrist_view(arm.side))


def _wrist_view(side: str) -> CameraPlace:
    """Return a camera in the hand's frame, on its inner, upper side: sees both finger tips and the table."""
    inner = 1.0 if side == "left" else -1.0
    return CameraPlace((inner * 0.085, 0.0, 0.035), (inner * 0.02, 0.0, 0.16), 75.0, up=(inner, 0.0, 0.0))


def _add_gripper(hand: mujoco.MjsBody, gripper: Gripper, tip: Rgba) -> None:
    """Palm and two fingers; z along the fingers, which open along y."""
    hand.add_geom(
        type=CYLINDER, fromto=[0, 0, 0, 0, 0, 0.050], size=[0.034, 0, 0], material=WHITE,
        mass=_PALM_KG / 2, **HITS_TASK,
    )  # fmt: skip
    hand.add_geom(
        type=BOX, pos=[0, 0, 0.060], size=[0.020, 0.062, 0.012], material=DARK, mass=_PALM_KG / 2, **HITS_TASK
    )
    for name, side in zip(gripper.fingers, (1.0, -1.0), strict=True):
        finger = hand.add_body(name=name, pos=[0, 0, 0.072], gravcomp=1)
        finger.add_joint(
            name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, side, 0], armature=0.1,
            damping=[_FINGER_DAMPING, 0, 0], range=[0, gripper.open_m],
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
        )  # fmt: skip
        finger.add_geom(
            type=BOX, pos=[0, side * 0.013, 0.024], size=[0.011, 0.009, 0.024], material=STEEL,
            mass=_FINGER_KG / 2, **HITS_TASK,
        )  # fmt: skip
        # Pads as in `parts.add_hand`: torsional friction, and priority over the object's own friction.
        finger.add_geom(
            type=BOX, pos=[0, side * 0.008, 0.064], size=[0.011, 0.008, 0.018], rgba=tip,
            name=f"pad_{name}", mass=_FINGER_KG / 2, condim=4, friction=[1.2, 0.02, 0.0001], priority=1,
            solref=[0.01, 1], **HITS_TASK,
        )  # fmt: skip
