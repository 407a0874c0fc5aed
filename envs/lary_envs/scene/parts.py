"""What robots are made of: capsules, servos and a parallel gripper, without mesh files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from lary_envs.kinematics import Matrix
from lary_envs.scene.cameras import Vec3

if TYPE_CHECKING:
    from lary_envs.robots import Gripper

# Collision classes: static scene, movable object, gripper or paddle, arm (hits objects only).
STATIC, OBJECT, GRIPPER, ARM = 1, 2, 4, 8
WHITE, DARK, STEEL, TIP = "robot_white", "robot_dark", "robot_steel", "robot_tip"  # blue tips are easy to see
CAPSULE, CYLINDER, BOX = (
    mujoco.mjtGeom.mjGEOM_CAPSULE,
    mujoco.mjtGeom.mjGEOM_CYLINDER,
    mujoco.mjtGeom.mjGEOM_BOX,
)
HITS_TASK = {"contype": GRIPPER, "conaffinity": STATIC | OBJECT}
KV_PER_KP = 1 / 40  # a time constant of 25 ms tracks within 1 mm; the usual 1/10 lags 2 cm at 0.4 m/s
_FINGER_KP, _FINGER_KV, _FINGER_FORCE_N = 400.0, 30.0, 40.0
_HAND_KG, _FINGER_KG = 0.73, 0.03  # Franka's data sheet


@dataclass(frozen=True)
class Part:
    """A capsule or cylinder between two points of a link frame, metres."""

    start: Vec3
    end: Vec3
    radius: float
    material: str = WHITE
    shape: mujoco.mjtGeom = CAPSULE


def add_part(body: mujoco.MjsBody, part: Part, mass_kg: float) -> None:
    """Add a part of an arm to a body; arms touch objects only."""
    body.add_geom(
        type=part.shape, fromto=[*part.start, *part.end], size=[part.radius, 0, 0], material=part.material,
        mass=mass_kg, contype=ARM, conaffinity=OBJECT,
    )  # fmt: skip


def quat_z(angle_rad: float) -> list[float]:
    """Return the quaternion (w, x, y, z) of a turn about z."""
    return [math.cos(angle_rad / 2), 0.0, 0.0, math.sin(angle_rad / 2)]


def placed(frame: Matrix) -> dict[str, list[float]]:
    """Return `pos` and `quat` of a `[4, 4]` frame, as MjSpec wants them."""
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.ascontiguousarray(frame[:3, :3]).ravel())
    return {"pos": frame[:3, 3].tolist(), "quat": quat.tolist()}


def add_materials(scene: mujoco.MjSpec) -> None:
    """Add the materials that all robots share."""
    scene.add_material(name=WHITE, rgba=[0.93, 0.93, 0.95, 1], specular=0.4, shininess=0.5)
    scene.add_material(name=DARK, rgba=[0.16, 0.17, 0.20, 1], specular=0.4, shininess=0.5)
    scene.add_material(name=TIP, rgba=[0.10, 0.30, 0.95, 1], specular=0.2, shininess=0.3)
    scene.add_material(name=STEEL, rgba=[0.30, 0.32, 0.36, 1], specular=0.3, shininess=0.4)


def add_hinge(body: mujoco.MjsBody, name: str, lower_rad: float, upper_rad: float) -> None:
    """Add a limited hinge about the body's z axis."""
    body.add_joint(
        name=name, type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], armature=0.1, damping=[1.0, 0, 0],
        range=[lower_rad, upper_rad], limited=mujoco.mjtLimited.mjLIMITED_TRUE,
    )  # fmt: skip


def position_servo(
    scene: mujoco.MjSpec, joint: str, kp: float, force: float, limits: tuple[float, float],
    *, kv: float | None = None,
) -> None:  # fmt: skip
    """Add a position servo named after its joint; `kv` is `KV_PER_KP` times `kp` by default."""
    servo = scene.add_actuator(
        name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT, ctrlrange=list(limits),
        forcerange=[-force, force], biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        ctrllimited=mujoco.mjtLimited.mjLIMITED_TRUE, forcelimited=mujoco.mjtLimited.mjLIMITED_TRUE,
    )  # fmt: skip
    servo.gainprm[0] = kp
    servo.biasprm[1], servo.biasprm[2] = -kp, -(KV_PER_KP * kp if kv is None else kv)


def add_hand(hand: mujoco.MjsBody, gripper: Gripper, *, tcp_site: str, tcp_m: float) -> None:
    """Add palm and two sliding fingers to a body whose z axis points along the fingers.

    The fingers open along y; the site `tcp_site` lies `tcp_m` along z and has the TCP's orientation.
    """
    hand.add_geom(
        type=BOX, pos=[0, 0, 0.03], size=[0.025, 0.1, 0.028], material=WHITE, mass=_HAND_KG / 2, **HITS_TASK
    )
    hand.add_geom(
        type=BOX, pos=[0, 0, 0.058], size=[0.02, 0.095, 0.004], material=DARK, mass=_HAND_KG / 2, **HITS_TASK
    )
    hand.add_site(name=tcp_site, pos=[0, 0, tcp_m], quat=[0, 1, 0, 0], size=[0.005, 0, 0])
    for name, side in zip(gripper.fingers, (1.0, -1.0), strict=True):
        finger = hand.add_body(name=name, pos=[0, 0, 0.0584], gravcomp=1)
        finger.add_joint(
            name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, side, 0], armature=0.1, damping=[5.0, 0, 0],
            range=[0, gripper.open_m], limited=mujoco.mjtLimited.mjLIMITED_TRUE,
        )  # fmt: skip
        finger.add_geom(
            type=BOX, pos=[0, side * 0.013, 0.012], size=[0.011, 0.013, 0.012], material=STEEL,
            mass=_FINGER_KG / 2, **HITS_TASK,
        )  # fmt: skip
        # Pads: torsional friction (condim 4) and priority, so that the cube's own friction does not matter.
        finger.add_geom(
            type=BOX, pos=[0, side * 0.008, 0.038], size=[0.010, 0.008, 0.016], material=TIP,
            name=f"pad_{name}", mass=_FINGER_KG / 2, condim=4, friction=[1.2, 0.02, 0.0001], priority=1,
            solref=[0.01, 1], **HITS_TASK,
        )  # fmt: skip


def add_gripper_servo(
    scene: mujoco.MjSpec, gripper: Gripper, *, kp: float = _FINGER_KP, force_n: float = _FINGER_FORCE_N
) -> None:
    """Drive the first finger and make the second mirror it."""
    first, second = gripper.fingers
    position_servo(scene, first, kp, force_n, (0.0, gripper.open_m), kv=_FINGER_KV)
    mirror = scene.add_equality(
        type=mujoco.mjtEq.mjEQ_JOINT, objtype=mujoco.mjtObj.mjOBJ_JOINT, name1=second, name2=first,
        solref=[0.01, 1],
    )  # fmt: skip
    mirror.data[:2] = [0.0, 1.0]
