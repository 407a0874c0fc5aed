"""A model with the layout of Menagerie's `franka_emika_panda`, its kinematics and meshes made here."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from lary_envs.kinematics.chain import rot_z, transform
from lary_envs.robots.panda import CHAIN, FLANGE_M, HAND_YAW_RAD
from lary_envs.scene.parts import placed

CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
FACES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
TRIANGLES = [t for a, b, c, d in FACES for t in ((a, b, c), (a, c, d))]


def write_panda(root: Path, *, turned: bool = False) -> Path:
    """Write the model below `root` and return its folder.

    Args:
        root: What `MENAGERIE_ROOT` is set to.
        turned: Whether link frames are turned about and moved along their joints' axes. That is the same
            robot, with other frames.
    """
    folder = root / "franka_emika_panda"
    (folder / "assets").mkdir(parents=True)
    (folder / "assets" / "link.obj").write_text(_obj(0.12 * CORNERS - [0.03, 0.05, 0.04]))
    (folder / "assets" / "hand.obj").write_text(_obj(CORNERS * [0.04, 0.2, 0.06] - [0.02, 0.1, 0.0]))
    (folder / "assets" / "finger.stl").write_bytes(_stl(CORNERS * [0.02, 0.015, 0.05] - [0.01, 0.0, 0.0]))
    (folder / "panda.xml").write_text(_mjcf(_frames(turned)))
    return folder


def _frames(turned: bool) -> list[np.ndarray]:
    """Return the pose of each link's body in its parent."""
    shifts = [np.eye(4)] + [
        transform(rot_z(0.3 * i), [0.0, 0.0, 0.01 * i]) if turned else np.eye(4) for i in range(1, 8)
    ]
    return [np.linalg.inv(shifts[i]) @ CHAIN.links[i] @ shifts[i + 1] for i in range(7)] + [
        np.linalg.inv(shifts[7]) @ transform(rot_z(HAND_YAW_RAD), [0.0, 0.0, FLANGE_M])
    ]


def _place(frame: np.ndarray) -> str:
    return " ".join(f'{name}="{" ".join(map(repr, map(float, v)))}"' for name, v in placed(frame).items())


def _mjcf(frames: list[np.ndarray]) -> str:
    body = '<geom class="visual" mesh="link" material="red"/><geom class="collision" mesh="link"/>'
    chain = "".join(
        f'<body name="link{i}" {_place(frame)}><joint name="joint{i}"/>{body}'
        for i, frame in enumerate(frames[:7], start=1)
    )
    finger = (
        '<geom class="visual" mesh="finger" rgba="0 1 1 1"/><geom class="collision" mesh="finger"/></body>'
    )
    return f"""<mujoco model="panda">
  <compiler angle="radian" meshdir="assets" autolimits="true"/>
  <default><default class="panda">
    <joint armature="0.1" damping="1" axis="0 0 1" range="-2.8973 2.8973"/>
    <default class="finger"><joint axis="0 1 0" type="slide" range="0 0.04"/></default>
    <default class="visual"><geom type="mesh" contype="0" conaffinity="0" group="2"/></default>
    <default class="collision"><geom type="mesh" group="3"/></default>
  </default></default>
  <asset>
    <material name="red" rgba="0.9 0.05 0.05 1" specular="0.5" shininess="0.25"/>
    <mesh file="link.obj"/><mesh name="hand" file="hand.obj" scale="1 1 1.1"/><mesh file="finger.stl"/>
  </asset>
  <worldbody><body name="link0" childclass="panda">{body}{chain}
    <body name="hand" {_place(frames[7])}><geom class="visual" mesh="hand" pos="0 0 0.01" material="red"/>
      <body name="left_finger" pos="0 0 0.0584"><joint name="finger_joint1" class="finger"/>{finger}
      <body name="right_finger" pos="0 0 0.0584" quat="0 0 0 1">
        <joint name="finger_joint2" class="finger"/>{finger}
    </body>{"</body>" * 7}
  </body></worldbody>
</mujoco>"""


def _obj(corners: np.ndarray) -> str:
    lines = ["v " + " ".join(f"{x:.8f}" for x in corner) for corner in corners]
    return "\n".join(lines + [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in TRIANGLES]) + "\n"


def _stl(corners: np.ndarray) -> bytes:
    out = bytes(80) + struct.pack("<I", len(TRIANGLES))
    for triangle in TRIANGLES:
        points = corners[list(triangle)]
        normal = np.cross(points[1] - points[0], points[2] - points[0])
        normal /= math.sqrt(float(normal @ normal))
        out += struct.pack("<12fH", *normal, *points.ravel(), 0)
    return out
