"""Serial arms: their constants, and forward kinematics and Jacobians of all arms of a robot in torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

type Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SerialChain:
    """Constants of one arm; every joint turns about the z axis of its own link frame."""

    base: Matrix  # `[4, 4]` frame before the first joint, in the world
    links: Matrix  # `[n, 4, 4]` link frame i in link frame i - 1 at joint angle zero
    tool: Matrix  # `[4, 4]` tool centre point (TCP) frame in the last link frame
    lower: Matrix  # `[n]` lower joint limits, rad
    upper: Matrix  # `[n]` upper joint limits, rad
    home: Matrix  # `[n]` home posture, rad
    max_velocity: Matrix  # `[n]` joint speed limits, rad/s

    @property
    def num_joints(self) -> int:
        """Number n of joints."""
        return len(self.links)


def transform(rotation: Sequence[Sequence[float]] | Matrix, translation: Sequence[float] | Matrix) -> Matrix:
    """Return the homogeneous `[4, 4]` matrix of a rotation matrix and a translation in metres."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, translation
    return out


def rot_x(angle_rad: float) -> Matrix:
    """Return the `[3, 3]` rotation about x."""
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def rot_z(angle_rad: float) -> Matrix:
    """Return the `[3, 3]` rotation about z."""
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def craig_links(
    a_m: Sequence[float], d_m: Sequence[float], alpha_rad: Sequence[float], theta_rad: Sequence[float]
) -> Matrix:
    """Return `[n, 4, 4]` links of modified Denavit-Hartenberg parameters: Rx(alpha) Tx(a) Rz(theta) Tz(d)."""
    links = []
    for a, d, alpha, theta in zip(a_m, d_m, alpha_rad, theta_rad, strict=True):
        turn = rot_x(alpha)
        links.append(transform(turn @ rot_z(theta), np.array([a, 0.0, 0.0]) + turn @ np.array([0.0, 0.0, d])))
    return np.stack(links)


class TorchChain:
    """All A arms of a robot, with n joints each, on one device and in one dtype.

    Attributes:
        lower: `[A, n]` lower limits, rad; `upper`, `home` and `max_velocity` (rad/s) alike.
    """

    def __init__(
        self,
        chains: Sequence[SerialChain],
        *,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
    ) -> None:
        def stacked(name: str) -> Tensor:
            values = np.stack([getattr(chain, name) for chain in chains])
            return torch.as_tensor(values, dtype=dtype, device=device)

        self.base, self.links, self.tool = stacked("base"), stacked("links"), stacked("tool")
        self.lower, self.upper = stacked("lower"), stacked("upper")
        self.home, self.max_velocity = stacked("home"), stacked("max_velocity")
        self.num_arms, self.num_joints = self.home.shape

    def frames(self, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Return link frames `[w, A, n, 4, 4]` and TCP frames `[w, A, 4, 4]` of `[w, A, n]` joint angles."""
        cos, sin = joints.cos()[..., None], joints.sin()[..., None]
        x, y = self.links[..., 0], self.links[..., 1]
        local = self.links.expand(len(joints), *self.links.shape).clone()
        local[..., 0] = x * cos + y * sin
        local[..., 1] = y * cos - x * sin
        frames, frame = [], self.base.expand(len(joints), *self.base.shape)
        for index in range(self.num_joints):
            frame = frame @ local[:, :, index]
            frames.append(frame)
        return torch.stack(frames, 2), frame @ self.tool

    def forward(self, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Return the TCPs' positions `[w, A, 3]` in metres and rotation matrices `[w, A, 3, 3]`."""
        tcp = self.frames(joints)[1]
        return tcp[..., :3, 3], tcp[..., :3, :3]

    def jacobian(self, joints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return positions, rotations and Jacobians `[w, A, 6, n]` (linear over angular, world frame)."""
        frames, tcp = self.frames(joints)
        axes = frames[..., :3, 2]
        linear = torch.linalg.cross(axes, tcp[:, :, None, :3, 3] - frames[..., :3, 3])
        return tcp[..., :3, 3], tcp[..., :3, :3], torch.cat([linear, axes], -1).transpose(-1, -2)
