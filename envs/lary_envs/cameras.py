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


# In the world frame. Close to the workspace: a pixel of a 112 px frame is about 5 mm on the table.
WORLD_CAMERAS = {
    "front": CameraPlace((1.18, 0.0, 0.72), (0.485, 0.0, 0.105), 34.0),
    "agent": CameraPlace((0.50, -0.95, 0.62), (0.48, 0.0, 0.11), 33.0),
}
# In the frame of the hand (z along the fingers, x away from the base): sees both fingertips and the table.
WRIST_CAMERA = CameraPlace((0.085, 0.0, 0.0), (0.04, 0.0, 0.13), 75.0, up=(1.0, 0.0, 0.0))


def add_camera(body: mujoco.MjsBody, name: str, place: CameraPlace) -> None:
    """Add a camera to a body (or the world body)."""
    body.add_camera(name=name, pos=place.pos_m, quat=place.quat_wxyz(), fovy=place.fovy_deg)
