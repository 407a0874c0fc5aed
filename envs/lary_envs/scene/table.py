"""The table scene: floor, table, lights, cameras and the robot; tasks add their objects to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mujoco

from lary_envs.rendering import TABLE_TEXTURES
from lary_envs.robots import OVERVIEW, Robot, robot_of
from lary_envs.scene.cameras import add_camera
from lary_envs.scene.menagerie import dress
from lary_envs.scene.parts import GRIPPER, OBJECT, STATIC
from lary_envs.tasks import Task
from lary_policy.errors import look_up

TIMESTEP_S = 0.005
PLAIN_TEXTURE = "wood"  # of the table
# What is done to the looks of a robot that has just been built.
LOOKS: dict[str, Callable[[mujoco.MjSpec, Robot], None]] = {
    "primitives": lambda scene, robot: None,
    "menagerie": dress,
}
_TABLE_FAR_M, _TABLE_HALF_WIDTH_M, _TABLE_HALF_THICK_M = 1.1, 0.75, 0.03


def build_model(
    task: Task, embodiment: str = "arm7", *, textures: Sequence[str] = (PLAIN_TEXTURE,),
    looks: str = "primitives",
) -> mujoco.MjModel:  # fmt: skip
    """Compile the table scene with the embodiment's robot first and the task's bodies after it.

    The table starts with the plain texture and may be given `textures` later. Looks are `primitives` or
    `menagerie`, with the same physics.

    Raises:
        UnknownNameError: No robot has this embodiment, or it has not got these looks.
        SimulationError: The meshes of `menagerie` are missing or do not fit.
    """
    dress_up = look_up("looks", looks, LOOKS)
    robot = robot_of(embodiment)
    scene = mujoco.MjSpec()
    scene.modelname = "lary_table"
    scene.compiler.degree = False
    _set_options(scene)
    _add_textures(scene, textures)
    _add_surroundings(scene, robot)
    robot.build(scene)
    dress_up(scene, robot)
    task.build(scene)
    return scene.compile()


def _set_options(scene: mujoco.MjSpec) -> None:
    option = scene.option
    option.timestep = TIMESTEP_S
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10  # keeps grasped objects from slipping
    option.ls_iterations = 50


def _add_textures(scene: mujoco.MjSpec, names: Sequence[str]) -> None:
    for name in dict.fromkeys((PLAIN_TEXTURE, *names)):
        texture = scene.add_texture(
            name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, width=256, height=256, nchannel=3
        )
        texture.data = TABLE_TEXTURES[name](256).tobytes()
    scene.add_texture(
        name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=[0.78, 0.82, 0.88], rgb2=[0.50, 0.55, 0.62], width=64, height=384,
    )  # fmt: skip


def _add_surroundings(scene: mujoco.MjSpec, robot: Robot) -> None:
    table = scene.add_material(name="table", specular=0.1, shininess=0.2, texrepeat=[1, 1])
    table.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = PLAIN_TEXTURE
    scene.add_material(name="floor", rgba=[0.55, 0.58, 0.62, 1], specular=0.0)
    world = scene.worldbody
    world.add_geom(
        name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, pos=[0, 0, -0.75], size=[4, 4, 0.1], material="floor",
        contype=0, conaffinity=0,
    )  # fmt: skip
    centre, half = (_TABLE_FAR_M + robot.table_near_m) / 2, (_TABLE_FAR_M - robot.table_near_m) / 2
    world.add_geom(
        name="table", type=mujoco.mjtGeom.mjGEOM_BOX, pos=[centre, 0, -_TABLE_HALF_THICK_M],
        size=[half, _TABLE_HALF_WIDTH_M, _TABLE_HALF_THICK_M], material="table", contype=STATIC,
        conaffinity=OBJECT | GRIPPER, friction=[0.8, 0.005, 0.0001],
    )  # fmt: skip
    _add_lights(scene)
    for name, place in robot.cameras.items():
        add_camera(world, name, place)
    add_camera(world, OVERVIEW, robot.overview)


def _add_lights(scene: mujoco.MjSpec) -> None:
    """One light casts shadows (they carry height), the fill light does not (a second shadow costs a ray)."""
    head = scene.visual.headlight
    head.ambient, head.diffuse, head.specular = [0.28] * 3, [0.22] * 3, [0.05] * 3
    directional = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
    scene.worldbody.add_light(
        name="key", type=directional, pos=[0.8, 0.6, 2.0], dir=[-0.18, -0.22, -1.0], castshadow=True,
        diffuse=[0.60, 0.60, 0.58], specular=[0.2] * 3,
    )  # fmt: skip
    scene.worldbody.add_light(
        name="fill", type=directional, pos=[1.0, -1.0, 1.5], dir=[-0.6, 0.6, -0.7], castshadow=False,
        diffuse=[0.18, 0.18, 0.20], specular=[0.0] * 3,
    )  # fmt: skip
