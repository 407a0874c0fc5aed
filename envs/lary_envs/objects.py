"""Bodies that tasks put on the table."""

from __future__ import annotations

import mujoco

from lary_envs.robot import ARM, GRIPPER, OBJECT, STATIC

# Saturated colours that occur nowhere else in the scene.
RED, GREEN, MAGENTA = (0.90, 0.08, 0.06, 1.0), (0.05, 0.65, 0.20, 1.0), (0.90, 0.05, 0.75, 1.0)
DISC_RADIUS_M = 0.04
DISC_HEIGHT_M = 0.003  # a disc nearer to the table than 2 mm flickers


def add_cube(scene: mujoco.MjSpec, half_m: float, mass_kg: float) -> None:
    """Add the free body `object`: a red cube."""
    body = scene.worldbody.add_body(name="object", pos=[0.5, 0.0, half_m])
    body.add_freejoint(name="object")
    body.add_geom(
        name="object", type=mujoco.mjtGeom.mjGEOM_BOX, size=[half_m] * 3, mass=mass_kg, rgba=list(RED),
        condim=4, friction=[0.8, 0.005, 0.0001], contype=OBJECT,
        conaffinity=STATIC | OBJECT | GRIPPER | ARM,
    )  # fmt: skip


def add_goal_disc(scene: mujoco.MjSpec) -> None:
    """Add the body `goal`: a flat green disc that touches nothing."""
    body = scene.worldbody.add_body(name="goal", pos=[0.5, 0.2, 0.0], mocap=True)
    body.add_geom(
        name="goal", type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[DISC_RADIUS_M, DISC_HEIGHT_M / 2, 0],
        pos=[0, 0, DISC_HEIGHT_M / 2], rgba=list(GREEN), contype=0, conaffinity=0,
    )  # fmt: skip


def add_goal_sphere(scene: mujoco.MjSpec, radius_m: float) -> None:
    """Add the body `goal`: a magenta sphere that touches nothing."""
    body = scene.worldbody.add_body(name="goal", pos=[0.5, 0.0, 0.2], mocap=True)
    body.add_geom(
        name="goal", type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[radius_m, 0, 0], rgba=list(MAGENTA), contype=0,
        conaffinity=0,
    )  # fmt: skip
