"""How much worlds may differ in colour, size, light, cameras and table: levels, and one seeded draw.

Poses are drawn by the tasks themselves, from another stream, so every level has the initial states of `none`.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lary_envs.physics import GOAL_BODIES, Physics
from lary_envs.robots import Robot
from lary_policy.errors import look_up

_STREAM = 0x100C  # keeps these random numbers apart from those of the initial state, which uses the bare seed

type Range = tuple[float, float]
type Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Ranges:
    """Least and largest deviation from the plain scene; signs and directions are drawn freely."""

    hue: Range  # of all objects and goals together, as a fraction of the colour circle
    size: Range  # of the objects and goals, as a fraction
    light_turn_rad: Range  # direction of the light that casts shadows
    brightness: Range  # of all lights, as a fraction
    camera_shift_m: Range  # position of the fixed cameras
    camera_turn_rad: Range  # orientation of the fixed cameras
    # Names of the table's textures, see `lary_envs.rendering.renderer.TABLE_TEXTURES`
    textures: tuple[str, ...]


# `shifted` begins where `train` has ended, in every quantity. Hues stay apart by 0.3 between red, green and
# magenta things, and the workspace stays inside the view.
LEVELS: Mapping[str, Ranges | None] = {
    "none": None,
    "train": Ranges(
        hue=(0.0, 0.03),
        size=(0.0, 0.04),
        light_turn_rad=(0.0, 0.20),
        brightness=(0.0, 0.10),
        camera_shift_m=(0.0, 0.01),
        camera_turn_rad=(0.0, 0.015),
        textures=("wood", "oak", "walnut", "beech"),
    ),
    "shifted": Ranges(
        hue=(0.06, 0.10),
        size=(0.06, 0.10),
        light_turn_rad=(0.35, 0.60),
        brightness=(0.20, 0.35),
        camera_shift_m=(0.02, 0.035),
        camera_turn_rad=(0.025, 0.045),
        textures=("stone", "cloth"),
    ),
}


@dataclass(frozen=True, eq=False)
class Variation:
    """One draw."""

    hue: float  # added to hues, as a fraction of the colour circle
    scale: float  # factor of sizes
    light_turn: Vector  # `[3]` rotation vector (rad) of the shadow-casting light's direction
    brightness: float  # factor of the lights' colours
    camera_shift: Vector  # `[c, 3]` metres, of each fixed camera
    camera_turn: Vector  # `[c, 3]` rotation vectors (rad)
    texture: str  # name of the table's texture


def ranges_of(level: str) -> Ranges | None:
    """Return the ranges of a level; None means that nothing varies.

    Raises:
        UnknownNameError: There is no such level.
    """
    return look_up("randomisation level", level, LEVELS)


def draw_variation(seed: int, ranges: Ranges, num_cameras: int) -> Variation:
    """Draw how the world of one seed differs from the plain scene."""
    rng = np.random.default_rng([_STREAM, seed])
    light = np.append(_direction(rng, 2), 0.0)  # turned about a horizontal axis, or its direction would stay
    return Variation(
        hue=_signed(rng, ranges.hue),
        scale=1 + _signed(rng, ranges.size),
        light_turn=light * rng.uniform(*ranges.light_turn_rad),
        brightness=1 + _signed(rng, ranges.brightness),
        camera_shift=_directions(rng, num_cameras, ranges.camera_shift_m),
        camera_turn=_directions(rng, num_cameras, ranges.camera_turn_rad),
        texture=str(rng.choice(ranges.textures)),
    )


def _signed(rng: np.random.Generator, limits: Range) -> float:
    return float(rng.choice((-1, 1)) * rng.uniform(*limits))


def _direction(rng: np.random.Generator, size: int) -> Vector:
    vector = rng.normal(size=size)
    return vector / np.linalg.norm(vector)


def _directions(rng: np.random.Generator, count: int, limits: Range) -> Vector:
    return np.stack([_direction(rng, 3) * rng.uniform(*limits) for _ in range(count)])


VARIED_FIELDS = (
    "geom_rgba", "geom_size", "light_dir", "light_diffuse", "cam_pos", "cam_quat", "mat_texid",
)  # fmt: skip
_SHADOW_LIGHT, _TABLE = "key", "table"  # names in the scene
# Half extents from here on stay: two arms that hold a bar by its ends know how long it is.
_LONG_M = 0.06
_RGB = mujoco.mjtTextureRole.mjTEXROLE_RGB.value

type Fields = dict[str, NDArray[Any]]


class VariedScene:
    """Gives each world of a scene the variation of its seed.

    Args:
        ranges: How far worlds may deviate from the plain scene.
        model: The compiled scene, with the textures of `ranges`.
        robot: The robot in it, whose fixed cameras move.
    """

    def __init__(self, ranges: Ranges, model: mujoco.MjModel, robot: Robot) -> None:
        self._ranges, self._model = ranges, model
        bodies = [i for i in range(model.nbody) if model.body(i).name in ("object", *GOAL_BODIES)]
        self._geoms = np.flatnonzero(np.isin(model.geom_bodyid, bodies))
        self._object = [i for i in self._geoms if model.geom(i).name == "object"]
        self._cameras = np.array([model.camera(name).id for name in robot.cameras])
        self._light, self._table = model.light(_SHADOW_LIGHT).id, model.material(_TABLE).id

    def write(self, physics: Physics, seeds: Sequence[int], worlds: Tensor | None = None) -> Tensor:
        """Write the fields of `[n]` worlds (all by default); return how much `[n]` (m) their objects rose."""
        drawn = [draw_variation(int(seed), self._ranges, len(self._cameras)) for seed in seeds]
        rows = [self._fields(variation) for variation in drawn]
        which = slice(None) if worlds is None else worlds
        for name in VARIED_FIELDS:
            view = physics.field(name)
            values = torch.from_numpy(np.stack([row[name] for row in rows]))
            view[which] = values.to(view.device, view.dtype).reshape(-1, *view.shape[1:])
        tall = np.stack([row["geom_size"][self._object, 2] for row in rows])
        return torch.from_numpy((tall - self._model.geom_size[self._object, 2]).sum(-1))

    def _fields(self, drawn: Variation) -> Fields:
        """Return the values of one world."""
        out: Fields = {name: getattr(self._model, name).copy() for name in VARIED_FIELDS}
        for geom in self._geoms:
            out["geom_rgba"][geom, :3] = _turn_hue(out["geom_rgba"][geom, :3], drawn.hue)
            graspable = out["geom_size"][geom] < _LONG_M
            out["geom_size"][geom, graspable] *= drawn.scale
        out["light_dir"][self._light] = _rotate(_quat(drawn.light_turn), out["light_dir"][self._light])
        out["light_diffuse"] *= drawn.brightness
        for camera, shift, turn in zip(self._cameras, drawn.camera_shift, drawn.camera_turn, strict=True):
            out["cam_pos"][camera] += shift
            out["cam_quat"][camera] = _multiply(_quat(turn), out["cam_quat"][camera])
        out["mat_texid"][self._table, _RGB] = self._model.texture(drawn.texture).id
        return out


def _turn_hue(rgb: NDArray[Any], turn: float) -> tuple[float, float, float]:
    hue, saturation, value = colorsys.rgb_to_hsv(*(float(x) for x in rgb))
    return colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value)


def _quat(rotation_vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the wxyz quaternion of a rotation vector."""
    angle, quat = float(np.linalg.norm(rotation_vector)), np.array([1.0, 0.0, 0.0, 0.0])
    if angle > 0:
        mujoco.mju_axisAngle2Quat(quat, rotation_vector / angle, angle)
    return quat


def _rotate(quat: NDArray[np.float64], vector: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.empty(3)
    mujoco.mju_rotVecQuat(out, vector, quat)
    return out


def _multiply(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.empty(4)
    mujoco.mju_mulQuat(out, first, second)
    return out
