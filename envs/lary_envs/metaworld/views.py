"""What MetaWorld's worlds look like to the ray tracer: goals that can be seen, cameras that stand upright.

MetaWorld marks goals by sites, which MuJoCo's own renderer draws and the ray tracer does not. Here every site
that MuJoCo would draw has a geom without contacts in a copy of the scene; it follows the site. The physics
runs on MetaWorld's scene as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lary_envs.scene import CameraPlace, Vec3, add_camera

# corner2, moved as in arXiv 2206.14244 and everyone's evaluations since, seen the right way up.
_FRONT = (0.75, 0.075, 0.7)
# MuJoCo's renderer cuts the light on a surface at 1 before it multiplies with its texture, the ray tracer
# does not. MetaWorld's lights add up to 0.85 to 1.2 on what faces up, and another 0.17 of the one that casts
# shadows, which is added after the cut. So textured surfaces take this share of how far the light is from
# `_CUT`, and no highlights, which the cut swallows. Both are fitted to MuJoCo's pictures, see the test.
_SHARE, _CUT = 0.6, 1.02
_NO_COLOUR = (0.5, 0.5, 0.5, 1.0)  # of a geom without a colour of its own: its material's counts
_OPAQUE = 0.5  # alpha from which a geom is drawn; the ray tracer draws what is translucent as if it were not
_HIDDEN_GROUP = 5
_SHOWN_GROUPS = 3  # MuJoCo's renderer draws groups 0, 1 and 2
_ALIASES = {"wrist": "gripperPOV"}


class GoalScene:
    """The scene with visible goals, and the poses of its geoms in all worlds; read by `RayTracer` as physics.

    Args:
        path: MetaWorld's XML.
        own: The scene compiled of it.
        num_worlds: Worlds w.
        image_px: Sides of frames. Textures get as many texels at most: MuJoCo's renderer averages those that
            share a pixel, the ray tracer reads four.

    Attributes:
        model: The scene to be traced.
        device: Where poses are.
        vary: Model fields that differ between worlds: none.
    """

    vary: tuple[str, ...] = ()
    device = torch.device("cpu")

    def __init__(self, path: str, own: mujoco.MjModel, num_worlds: int, image_px: int) -> None:
        spec = mujoco.MjSpec.from_file(path)
        self._sites = [i for i in range(own.nsite) if _is_drawn(own, i)]
        for site in self._sites:
            body = spec.worldbody.add_body(name=f"seen_{site}")
            body.add_geom(
                type=own.site_type[site], size=own.site_size[site], rgba=own.site_rgba[site], group=0,
                contype=0, conaffinity=0, mass=0,
            )  # fmt: skip
        front = own.camera("corner2")
        gaze, up = _axes(own, front.id)
        place = CameraPlace(_FRONT, tuple(np.add(_FRONT, gaze)), float(front.fovy[0]), up)
        add_camera(spec.worldbody, "front", place)
        for i, texture in enumerate(spec.textures):
            _reduce(texture, own.texture(i), own.tex_data, image_px)
        self.model = spec.compile()
        _light_like_mujoco(self.model)
        self._cameras = [self.model.camera(i).name for i in range(self.model.ncam)]
        self._own_cameras = [own.camera(name).id if name != "front" else -1 for name in self._cameras]
        # Fixed cameras whose picture has the floor on top are turned about their own axis.
        down = mujoco.MjData(own)
        mujoco.mj_forward(own, down)
        fixed = own.cam_bodyid == 0
        self._turned = fixed & (down.cam_xmat.reshape(-1, 3, 3)[:, 2, 1] < -0.01)
        still = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, still)
        seen = self.model.camera("front").id
        self._front = (still.cam_xpos[seen].copy(), still.cam_xmat[seen].copy())
        shapes = {"geom_xpos": (self.model.ngeom, 3), "geom_xmat": (self.model.ngeom, 9),
                  "cam_xpos": (self.model.ncam, 3), "cam_xmat": (self.model.ncam, 9),
                  "light_xpos": (self.model.nlight, 3), "light_xdir": (self.model.nlight, 3)}  # fmt: skip
        self._fields = {name: torch.zeros(num_worlds, *shape) for name, shape in shapes.items()}

    def names(self, cameras: Sequence[str]) -> tuple[str, ...]:
        """Return what the scene calls cameras."""
        return tuple(_ALIASES.get(name, name) for name in cameras)

    def show(self, world: int, data: mujoco.MjData) -> None:
        """Take over where everything is in a world."""
        sites = self._sites
        values: Mapping[str, NDArray[Any]] = {
            "geom_xpos": np.concatenate([data.geom_xpos, data.site_xpos[sites]]),
            "geom_xmat": np.concatenate([data.geom_xmat, data.site_xmat[sites]]),
            "cam_xpos": self._of_cameras(data.cam_xpos, self._front[0]),
            "cam_xmat": self._of_cameras(self._upright(data.cam_xmat), self._front[1]),
            "light_xpos": data.light_xpos,
            "light_xdir": data.light_xdir,
        }
        for name, value in values.items():
            self._fields[name][world] = torch.from_numpy(np.ascontiguousarray(value))

    def field(self, name: str) -> Tensor:
        """Return the values `[w, ...]` of a field of poses."""
        return self._fields[name]

    def _upright(self, mats: NDArray[np.float64]) -> NDArray[np.float64]:
        turned = mats.reshape(-1, 3, 3).copy()
        turned[self._turned, :, :2] *= -1
        return turned.reshape(-1, 9)

    def _of_cameras(self, own: NDArray[np.float64], front: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([front if i < 0 else own[i] for i in self._own_cameras])


def _reduce(texture: mujoco.MjsTexture, own: Any, texels: NDArray[np.uint8], most: int) -> None:
    """Average a texture down to at most so many texels a side."""
    start, height, width, channels = (int(n[0]) for n in (own.adr, own.height, own.width, own.nchannel))
    if width <= most or own.type[0] == mujoco.mjtTexture.mjTEXTURE_SKYBOX:
        return
    pixels = texels[start : start + height * width * channels].reshape(height, width, channels)
    small = Image.fromarray(pixels).resize((most, round(height * most / width)), Image.Resampling.BOX)
    texture.file, texture.hflip, texture.vflip = "", False, False
    texture.width, texture.height, texture.nchannel = *small.size, channels
    texture.data = small.tobytes()


def _light_like_mujoco(model: mujoco.MjModel) -> None:
    """Give textured materials the light that MuJoCo's renderer gives them; drop what can be seen through."""
    textured = (model.mat_texid >= 0).any(1)
    model.mat_rgba[textured, :3] *= _SHARE
    model.mat_emission[textured] = _CUT * (1 - _SHARE) / _SHARE
    model.mat_specular[textured] = 0.0
    plain = (model.geom_matid >= 0) & (model.geom_rgba == _NO_COLOUR).all(1)
    alpha = np.where(plain, model.mat_rgba[model.geom_matid, 3], model.geom_rgba[:, 3])
    model.geom_group[alpha < _OPAQUE] = _HIDDEN_GROUP


def _is_drawn(model: mujoco.MjModel, site: int) -> bool:
    return bool(model.site_rgba[site, 3] > 0 and model.site_group[site] < _SHOWN_GROUPS)


def _axes(model: mujoco.MjModel, camera: int) -> tuple[Vec3, Vec3]:
    """Return where a fixed camera looks and what is up in its picture, the floor below."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    _, (*up,), (*back,) = data.cam_xmat[camera].reshape(3, 3).T
    sign = 1.0 if up[2] >= 0 else -1.0
    return (-back[0], -back[1], -back[2]), (sign * up[0], sign * up[1], sign * up[2])
