"""Where the cameras are."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

type Vec3 = tuple[float, float, float]


@dataclass(frozen=True)
class CameraPlace:
    """Camera at `pos_m` that looks at `target_m`; `up` points up in the image."""

    pos_m: Vec3
    target_m: Vec3
    fovy_deg: float
    up: Vec3 = (0.0, 0.0, 1.0)

    def quat_wxyz(self) -> list[float]:
        """Return the orientation: MuJoCo's cameras look along their own -z axis, with y up."""
        back = np.subtract(self.pos_m, self.target_m).astype(np.float64)
        back /= np.linalg.norm(back)
        right = np.cross(self.up, back)
        right /= np.linalg.norm(right)
        quat = np.empty(4)
        mujoco.mju_mat2Quat(quat, np.stack([right, np.cross(back, right), back], axis=1).ravel())
        return [float(value) for value in quat]


def add_camera(body: mujoco.MjsBody, name: str, place: CameraPlace) -> None:
    """Add a camera to a body (or the world body)."""
    body.add_camera(name=name, pos=place.pos_m, quat=place.quat_wxyz(), fovy=place.fovy_deg)
