"""Writes what was drawn for each world into the model fields that vary between worlds."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lary_envs.backend import Physics
from lary_envs.measure import GOAL_BODIES
from lary_envs.randomisation import Ranges, Variation, draw_variation
from lary_envs.robot import Robot

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
