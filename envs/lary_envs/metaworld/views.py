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
from torch import Tensor

from lary_envs.scene import CameraPlace, add_camera

# corner2, moved as in arXiv 2206.14244 and everyone's evaluations since, seen the right way up.
_FRONT = (0.75, 0.075, 0.7)
# MuJoCo's renderer cuts the light on a surface at 1 and then multiplies with its texture, the ray tracer does
# not: MetaWorld's lights add up to 1.4 on what faces up. Fitted to its pictures of pick-place and door-open,
# whose mean difference is a third of what it was; highlights, which the cut swallows, are left out.
_HEADLIGHT = {"ambient": 0.45, "diffuse": 0.2, "specular": 0.0}
_SHOWN_GROUPS = 3  # MuJoCo's renderer draws groups 0, 1 and 2
_ALIASES = {"wrist": "gripperPOV"}


class GoalScene:
    """The scene with visible goals, and the poses of its geoms in all worlds; read by `RayTracer` as physics.

    Args:
        path: MetaWorld's XML.
        own: The scene compiled of it.
        num_worlds: Worlds w.

    Attributes:
        model: The scene to be traced.
        device: Where poses are.
        vary: Model fields that differ between worlds: none.
    """

    vary: tuple[str, ...] = ()
    device = torch.device("cpu")

    def __init__(self, path: str, own: mujoco.MjModel, num_worlds: int) -> None:
        spec = mujoco.MjSpec.from_file(path)
        self._sites = [i for i in range(own.nsite) if _is_drawn(own, i)]
        for site in self._sites:
            body = spec.worldbody.add_body(name=f"seen_{site}")
            body.add_geom(
                type=own.site_type[site], size=own.site_size[site], rgba=own.site_rgba[site], group=0,
                contype=0, conaffinity=0, mass=0,
            )  # fmt: skip
        front = own.camera("corner2")
        gaze = _axis(own, front.id)
        add_camera(
            spec.worldbody, "front", CameraPlace(_FRONT, tuple(np.add(_FRONT, gaze)), float(front.fovy[0]))
        )
        for name, value in _HEADLIGHT.items():
            setattr(spec.visual.headlight, name, [value] * 3)
        self.model = spec.compile()
        self.model.light_specular[:] = 0.0
        self._cameras = [self.model.camera(i).name for i in range(self.model.ncam)]
        self._own_cameras = [own.camera(name).id if name != "front" else -1 for name in self._cameras]
        # Fixed cameras whose picture has the floor on top are turned about their own axis.
        down = mujoco.MjData(own)
        mujoco.mj_forward(own, down)
        fixed = own.cam_bodyid == 0
        self._turned = fixed & (down.cam_xmat.reshape(-1, 3, 3)[:, 2, 1] < -0.01)
        still = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, still)
        place = self.model.camera("front").id
        self._front = (still.cam_xpos[place].copy(), still.cam_xmat[place].copy())
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


def _is_drawn(model: mujoco.MjModel, site: int) -> bool:
    return bool(model.site_rgba[site, 3] > 0 and model.site_group[site] < _SHOWN_GROUPS)


def _axis(model: mujoco.MjModel, camera: int) -> NDArray[np.float64]:
    """Return the direction in which a fixed camera looks."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return -data.cam_xmat[camera].reshape(3, 3)[:, 2]
