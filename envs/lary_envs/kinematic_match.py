"""Which link of ours is which body of another model of the same robot: found by moving both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from lary_envs.chain import Matrix
from lary_envs.robot import Robot
from lary_policy.errors import SimulationError

TOLERANCE = 1e-6  # metres, and entries of rotation matrices: published quaternions have seven digits
_POSTURES = 8  # compared; one alone would match any two chains


@dataclass(frozen=True, eq=False)
class Link:
    """A link of ours and the body of the other model that moves with it.

    Attributes:
        name: Our body.
        pose: `[4, 4]` pose of the other body in it.
    """

    name: str
    pose: Matrix


def match_links(robot: Robot, model: mujoco.MjModel, joints: Mapping[str, str]) -> dict[int, Link]:
    """Return our link for the base (body 0, the world) and each moving body of a model.

    Both robots take the same random postures; a body belongs to our link if it stays where it is on it.

    Args:
        robot: One of ours; the model's world is the frame in which its first arm stands.
        model: The other model.
        joints: Its joint for each of ours, with the same zero.

    Raises:
        SimulationError: The model has other joints or other kinematics.
    """
    ours = _alone(robot)
    _require_joints(model, joints)
    first = ours.joint(robot.arms[0].joints[0]).bodyid[0]
    pairs = [(int(ours.body_parentid[first]), 0)] + [
        (int(ours.joint(a).bodyid[0]), int(model.joint(b).bodyid[0])) for a, b in joints.items()
    ]
    our_bodies, bodies = (list(part) for part in zip(*pairs, strict=True))
    rng, base, seen = np.random.default_rng(0), robot.arms[0].chain.base, []
    for _ in range(_POSTURES):
        values = {name: rng.uniform(*ours.joint(name).range) for name in joints}
        here = body_poses(ours, values)[our_bodies]
        there = body_poses(model, {joints[name]: value for name, value in values.items()})[bodies]
        seen.append(np.linalg.inv(here) @ base @ there)
    names = [ours.body(body).name for body in our_bodies]
    _require_constant(np.stack(seen), names)
    return {body: Link(name, pose) for body, name, pose in zip(bodies, names, seen[0], strict=True)}


def body_poses(model: mujoco.MjModel, joints: Mapping[str, float]) -> NDArray[np.float64]:
    """Return the poses `[nbody, 4, 4]` of all bodies at joint positions (rad, m), the others at rest."""
    data = mujoco.MjData(model)
    for name, position in joints.items():
        data.qpos[model.joint(name).qposadr[0]] = position
    mujoco.mj_kinematics(model, data)
    return matrices(data.xpos, data.xmat)


def matrices(positions: NDArray[np.float64], rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `[n, 4, 4]` of MuJoCo's positions `[n, 3]` and rotations `[n, 9]`."""
    out = np.tile(np.eye(4), (len(positions), 1, 1))
    out[:, :3, :3], out[:, :3, 3] = rotations.reshape(-1, 3, 3), positions
    return out


def _alone(robot: Robot) -> mujoco.MjModel:
    scene = mujoco.MjSpec()
    scene.compiler.degree = False
    robot.build(scene)
    return scene.compile()


def _require_joints(model: mujoco.MjModel, joints: Mapping[str, str]) -> None:
    found = sorted(model.joint(i).name for i in range(model.njnt))
    if found != sorted(joints.values()):
        raise _differs(f"the joints {', '.join(sorted(joints.values()))}", f"{', '.join(found) or 'none'}")


def _require_constant(poses: NDArray[np.float64], names: list[str]) -> None:
    moved = np.abs(poses - poses[0]).max((0, 2, 3))
    if moved.max() > TOLERANCE:
        first = int((moved > TOLERANCE).argmax())  # those after it move with it
        raise _differs(
            f"links that move as ours do, within {TOLERANCE:g} (m, rad)",
            f"{moved[first]:.2g} at our '{names[first]}'",
        )


def _differs(expected: str, got: str) -> SimulationError:
    return SimulationError(
        expected=expected, got=got, fix="Use the unmodified model of MuJoCo Menagerie, or looks=primitives."
    )
