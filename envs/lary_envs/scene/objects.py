"""Bodies that tasks put on the table."""

from __future__ import annotations

import mujoco
import numpy as np

from lary_envs.scene.cameras import Vec3
from lary_envs.scene.parts import ARM, GRIPPER, OBJECT, STATIC
from lary_envs.tasks import Placement

# Saturated colours that occur nowhere else in the scene.
RED, GREEN, MAGENTA = (0.90, 0.08, 0.06, 1.0), (0.05, 0.65, 0.20, 1.0), (0.90, 0.05, 0.75, 1.0)
type Rgba = tuple[float, float, float, float]
DISC_RADIUS_M = 0.04
DISC_HEIGHT_M = 0.003  # a disc nearer to the table than 2 mm flickers


def add_box(
    scene: mujoco.MjSpec, half_m: tuple[float, float, float], mass_kg: float, *, rgba: Rgba = RED
) -> mujoco.MjsBody:
    """Add the free body `object`: a box, red by default; return it for decoration."""
    body = scene.worldbody.add_body(name="object", pos=[0.5, 0.0, half_m[2]])
    body.add_freejoint(name="object")
    add_piece(body, (0.0, 0.0, 0.0), half_m, mass_kg, rgba=rgba).name = "object"
    return body


def add_piece(
    body: mujoco.MjsBody, pos_m: Vec3, half_m: Vec3, mass_kg: float, *, rgba: Rgba = RED
) -> mujoco.MjsGeom:
    """Add a box to an object, at a place in its frame."""
    return body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX, pos=pos_m, size=half_m, mass=mass_kg, rgba=list(rgba), condim=4,
        friction=[0.8, 0.005, 0.0001], contype=OBJECT, conaffinity=STATIC | OBJECT | GRIPPER | ARM,
    )  # fmt: skip


def add_cube(scene: mujoco.MjSpec, half_m: float, mass_kg: float) -> None:
    """Add the free body `object`: a red cube."""
    add_box(scene, (half_m, half_m, half_m), mass_kg)


def add_goal_disc(scene: mujoco.MjSpec) -> None:
    """Add the body `goal`: a flat green disc that touches nothing."""
    body = scene.worldbody.add_body(name="goal", pos=[0.5, 0.2, 0.0], mocap=True)
    body.add_geom(
        name="goal", type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[DISC_RADIUS_M, DISC_HEIGHT_M / 2, 0],
        pos=[0, 0, DISC_HEIGHT_M / 2], rgba=list(GREEN), contype=0, conaffinity=0,
    )  # fmt: skip


def add_goal_plate(scene: mujoco.MjSpec, half_m: tuple[float, float]) -> None:
    """Add the body `goal`: a flat green rectangle that touches nothing."""
    body = scene.worldbody.add_body(name="goal", pos=[0.5, 0.2, 0.0], mocap=True)
    body.add_geom(
        name="goal", type=mujoco.mjtGeom.mjGEOM_BOX, size=[*half_m, DISC_HEIGHT_M / 2],
        pos=[0, 0, DISC_HEIGHT_M / 2], rgba=list(GREEN), contype=0, conaffinity=0,
    )  # fmt: skip


def add_goal_sphere(
    scene: mujoco.MjSpec, radius_m: float, *, name: str = "goal", rgba: Rgba = MAGENTA
) -> None:
    """Add the body `name` (`goal` or `goal_2`): a sphere, magenta by default, that touches nothing."""
    body = scene.worldbody.add_body(name=name, pos=[0.5, 0.0, 0.2], mocap=True)
    body.add_geom(
        name=name, type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[radius_m, 0, 0], rgba=list(rgba), contype=0,
        conaffinity=0,
    )  # fmt: skip


def add_two_spheres(scene: mujoco.MjSpec, radius_m: float) -> None:
    """Add `goal`, a magenta sphere for the left arm, and `goal_2`, a green one for the right arm."""
    add_goal_sphere(scene, radius_m)
    add_goal_sphere(scene, radius_m, name="goal_2", rgba=GREEN)


def place_two_spheres(rng: np.random.Generator, low_m: Vec3, high_m: Vec3) -> dict[str, Placement]:
    """Draw both centres uniformly and independently: the left one in a box, the right one in its mirror."""
    left, right = rng.uniform(low_m, high_m, (2, 3))
    return {
        "goal": Placement((float(left[0]), float(left[1]), float(left[2]))),
        "goal_2": Placement((float(right[0]), -float(right[1]), float(right[2]))),
    }
