"""A Panda-like arm built from primitives: published kinematics, approximate looks, no mesh files."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco

from lary_envs import kinematics as kin
from lary_envs.cameras import WRIST_CAMERA, Vec3, add_camera

ARM_JOINTS = tuple(f"joint{i}" for i in range(1, 8))
FINGER_JOINTS = ("finger_left", "finger_right")
# Collision classes: static scene, movable object, gripper, arm (hits objects only).
STATIC, OBJECT, GRIPPER, ARM = 1, 2, 4, 8
# Stiff servo gains: kp of MuJoCo Menagerie's Panda; kv = kp / 40 (time constant 25 ms) tracks within 1 mm.
_KP = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0)
_KV_PER_KP = 1 / 40
_TORQUE_NM = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)  # Franka's data sheet
_FINGER_KP, _FINGER_KV, _FINGER_FORCE_N = 400.0, 30.0, 40.0
# Link masses in kg as in the identified model of Gaz et al. 2019 (link 1 to 7), hand and finger: data sheet.
_MASS_KG = (4.97, 0.647, 3.229, 3.588, 1.226, 1.667, 0.735)
_HAND_KG, _FINGER_KG = 0.73, 0.03
WHITE, DARK, STEEL, TIP = "robot_white", "robot_dark", "robot_steel", "robot_tip"  # blue tips are easy to see


@dataclass(frozen=True)
class _Part:
    """A capsule or cylinder between two points of a link frame."""

    start: Vec3
    end: Vec3
    radius: float
    material: str = WHITE
    shape: mujoco.mjtGeom = mujoco.mjtGeom.mjGEOM_CAPSULE


_CYLINDER = mujoco.mjtGeom.mjGEOM_CYLINDER
_BASE = (
    _Part((0, 0, 0.0), (0, 0, 0.03), 0.10, STEEL, _CYLINDER),
    _Part((-0.06, 0, 0.06), (0, 0, 0.06), 0.06),
    _Part((0, 0, 0.03), (0, 0, 0.15), 0.065, WHITE, _CYLINDER),
)
_LINKS: tuple[tuple[_Part, ...], ...] = (
    (_Part((0, 0, -0.17), (0, 0, 0), 0.06),),
    (_Part((0, 0, -0.065), (0, 0, 0.065), 0.062, DARK, _CYLINDER), _Part((0, 0, 0), (0, -0.08, 0), 0.058)),
    (_Part((0, 0, -0.22), (0, 0, -0.05), 0.056), _Part((0, 0, -0.05), (0.0825, 0, 0), 0.05)),
    (
        _Part((0, 0, -0.06), (0, 0, 0.06), 0.056, DARK, _CYLINDER),
        _Part((0, 0, 0), (-0.0825, 0.08, 0), 0.05),
    ),
    (_Part((0, 0, -0.29), (0, 0, -0.16), 0.052), _Part((0, 0.01, -0.16), (0, 0.03, -0.02), 0.045)),
    (_Part((0, 0, -0.05), (0, 0, 0.05), 0.05, DARK, _CYLINDER), _Part((0, 0, 0), (0.088, 0, 0), 0.046)),
    (_Part((0, 0, -0.03), (0, 0, 0.07), 0.045), _Part((0, 0, 0.07), (0, 0, 0.107), 0.04, DARK, _CYLINDER)),
)


def _add_part(body: mujoco.MjsBody, part: _Part, mass_kg: float) -> None:
    body.add_geom(
        type=part.shape, fromto=[*part.start, *part.end], size=[part.radius, 0, 0], material=part.material,
        mass=mass_kg, contype=ARM, conaffinity=OBJECT,
    )  # fmt: skip


def _quat_x(angle_rad: float) -> list[float]:
    return [math.cos(angle_rad / 2), math.sin(angle_rad / 2), 0.0, 0.0]


def _quat_z(angle_rad: float) -> list[float]:
    return [math.cos(angle_rad / 2), 0.0, 0.0, math.sin(angle_rad / 2)]


def add_materials(scene: mujoco.MjSpec) -> None:
    """Add the robot's materials."""
    scene.add_material(name=WHITE, rgba=[0.93, 0.93, 0.95, 1], specular=0.4, shininess=0.5)
    scene.add_material(name=DARK, rgba=[0.16, 0.17, 0.20, 1], specular=0.4, shininess=0.5)
    scene.add_material(name=TIP, rgba=[0.10, 0.30, 0.95, 1], specular=0.2, shininess=0.3)
    scene.add_material(name=STEEL, rgba=[0.30, 0.32, 0.36, 1], specular=0.3, shininess=0.4)


def add_arm(scene: mujoco.MjSpec) -> None:
    """Add arm, gripper, actuators and the `wrist` camera; the base stands at the world's origin."""
    base = scene.worldbody.add_body(name="link0")
    for part in _BASE:
        _add_part(base, part, 1.0)
    parent = base
    for index, parts in enumerate(_LINKS):
        alpha = kin.DH_ALPHA_RAD[index]
        d = kin.DH_D_M[index]
        pos = [kin.DH_A_M[index], -math.sin(alpha) * d, math.cos(alpha) * d]
        body = parent.add_body(name=f"link{index + 1}", pos=pos, quat=_quat_x(alpha), gravcomp=1)
        body.add_joint(
            name=ARM_JOINTS[index], type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], armature=0.1,
            damping=[1.0, 0, 0], range=[kin.JOINT_LOWER_RAD[index], kin.JOINT_UPPER_RAD[index]],
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
        )  # fmt: skip
        for part in parts:
            _add_part(body, part, _MASS_KG[index] / len(parts))
        parent = body
    _add_hand(parent)
    _add_actuators(scene)


def _add_hand(flange_link: mujoco.MjsBody) -> None:
    hand = flange_link.add_body(
        name="hand", pos=[0, 0, kin.FLANGE_M], quat=_quat_z(kin.HAND_YAW_RAD), gravcomp=1
    )
    solid = {"contype": GRIPPER, "conaffinity": STATIC | OBJECT}
    box = mujoco.mjtGeom.mjGEOM_BOX
    hand.add_geom(
        type=box, pos=[0, 0, 0.03], size=[0.025, 0.1, 0.028], material=WHITE, mass=_HAND_KG / 2, **solid
    )
    hand.add_geom(
        type=box, pos=[0, 0, 0.058], size=[0.02, 0.095, 0.004], material=DARK, mass=_HAND_KG / 2, **solid
    )
    hand.add_site(name="tcp", pos=[0, 0, kin.TCP_M], quat=[0, 1, 0, 0], size=[0.005, 0, 0])
    add_camera(hand, "wrist", WRIST_CAMERA)
    for name, side in zip(FINGER_JOINTS, (1.0, -1.0), strict=True):
        finger = hand.add_body(name=name, pos=[0, 0, 0.0584], gravcomp=1)
        finger.add_joint(
            name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, side, 0], armature=0.1, damping=[5.0, 0, 0],
            range=[0, kin.FINGER_OPEN_M], limited=mujoco.mjtLimited.mjLIMITED_TRUE,
        )  # fmt: skip
        finger.add_geom(
            type=box, pos=[0, side * 0.013, 0.012], size=[0.011, 0.013, 0.012], material=STEEL,
            mass=_FINGER_KG / 2, **solid,
        )  # fmt: skip
        # Pads: torsional friction (condim 4) and priority, so that the cube's own friction does not matter.
        finger.add_geom(
            type=box, pos=[0, side * 0.008, 0.038], size=[0.010, 0.008, 0.016], material=TIP,
            name=f"pad_{name}", mass=_FINGER_KG / 2, condim=4, friction=[1.2, 0.02, 0.0001], priority=1,
            solref=[0.01, 1], **solid,
        )  # fmt: skip


def _add_actuators(scene: mujoco.MjSpec) -> None:
    limits = zip(kin.JOINT_LOWER_RAD, kin.JOINT_UPPER_RAD, strict=True)
    for name, kp, torque, (low, high) in zip(ARM_JOINTS, _KP, _TORQUE_NM, limits, strict=True):
        _position_servo(scene, name, kp, kp * _KV_PER_KP, torque, (low, high))
    _position_servo(
        scene, FINGER_JOINTS[0], _FINGER_KP, _FINGER_KV, _FINGER_FORCE_N, (0.0, kin.FINGER_OPEN_M)
    )
    mirror = scene.add_equality(
        type=mujoco.mjtEq.mjEQ_JOINT, objtype=mujoco.mjtObj.mjOBJ_JOINT, name1=FINGER_JOINTS[1],
        name2=FINGER_JOINTS[0], solref=[0.01, 1],
    )  # fmt: skip
    mirror.data[:2] = [0.0, 1.0]


def _position_servo(
    scene: mujoco.MjSpec, joint: str, kp: float, kv: float, force: float, limits: tuple[float, float]
) -> None:
    servo = scene.add_actuator(
        name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT, ctrlrange=list(limits),
        forcerange=[-force, force], biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        ctrllimited=mujoco.mjtLimited.mjLIMITED_TRUE, forcelimited=mujoco.mjtLimited.mjLIMITED_TRUE,
    )  # fmt: skip
    servo.gainprm[0] = kp
    servo.biasprm[1], servo.biasprm[2] = -kp, -kv
