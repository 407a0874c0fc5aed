"""Forward kinematics and Jacobian of the Panda in torch, from its published constants alone.

Constants: Franka Emika's documentation, "Denavit-Hartenberg parameters" (Craig's convention), flange at
0.107 m, hand turned by -45 degrees about the flange axis, tool centre point (TCP) 0.1034 m from the hand.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DH_A_M = (0.0, 0.0, 0.0, 0.0825, -0.0825, 0.0, 0.088)
DH_D_M = (0.333, 0.0, 0.316, 0.0, 0.384, 0.0, 0.0)
DH_ALPHA_RAD = (0.0, -math.pi / 2, math.pi / 2, math.pi / 2, -math.pi / 2, math.pi / 2, math.pi / 2)
FLANGE_M = 0.107
HAND_YAW_RAD = -math.pi / 4
TCP_M = 0.1034
JOINT_LOWER_RAD = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973)
JOINT_UPPER_RAD = (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)
FINGER_OPEN_M = 0.04  # travel of one finger; both open: 8 cm
# Gripper straight down, TCP at (0.40, 0, 0.22): outside the objects, inside every camera.
JOINT_HOME_RAD = (0.0, -0.27684350, 0.0, -2.68210970, 0.0, 2.40526619, math.pi / 4)

_DOWN = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))


def _transform(rotation: Tensor, translation: Tensor) -> Tensor:
    out = torch.eye(4, dtype=torch.float64)
    out[:3, :3], out[:3, 3] = rotation, translation
    return out


def _fixed_links() -> Tensor:
    """Return `[7, 4, 4]`: link i in link i - 1 at joint angle zero (Craig: Rx(alpha) Tx(a) Tz(d))."""
    links = []
    for a, d, alpha in zip(DH_A_M, DH_D_M, DH_ALPHA_RAD, strict=True):
        c, s = math.cos(alpha), math.sin(alpha)
        turn = torch.tensor([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]], dtype=torch.float64)
        links.append(_transform(turn, turn @ torch.tensor([a, 0.0, d], dtype=torch.float64)))
    return torch.stack(links)


def _tool() -> Tensor:
    """Return `[4, 4]`: the TCP frame in link 7; z up, x forward, y left when the gripper points down."""
    c, s = math.cos(HAND_YAW_RAD), math.sin(HAND_YAW_RAD)
    yaw = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    offset = torch.tensor([0.0, 0.0, FLANGE_M + TCP_M], dtype=torch.float64)
    return _transform(yaw @ torch.tensor(_DOWN, dtype=torch.float64), offset)


class ArmChain:
    """The seven-joint chain on one device and in one dtype."""

    def __init__(self, *, dtype: torch.dtype = torch.float64, device: str = "cpu") -> None:
        self._links = _fixed_links().to(device, dtype)
        self._tool = _tool().to(device, dtype)
        self.lower = torch.tensor(JOINT_LOWER_RAD, dtype=dtype, device=device)
        self.upper = torch.tensor(JOINT_UPPER_RAD, dtype=dtype, device=device)
        self.home = torch.tensor(JOINT_HOME_RAD, dtype=dtype, device=device)

    def frames(self, joint_pos: Tensor) -> tuple[Tensor, Tensor]:
        """Return the link frames `[w, 7, 4, 4]` and the TCP frame `[w, 4, 4]` of `[w, 7]` joint angles."""
        cos, sin = joint_pos.cos()[..., None], joint_pos.sin()[..., None]
        x, y = self._links[..., 0], self._links[..., 1]
        local = self._links.expand(len(joint_pos), 7, 4, 4).clone()
        local[..., 0] = x * cos + y * sin
        local[..., 1] = y * cos - x * sin
        frames = [local[:, 0]]
        for index in range(1, 7):
            frames.append(frames[-1] @ local[:, index])
        return torch.stack(frames, 1), frames[-1] @ self._tool

    def forward(self, joint_pos: Tensor) -> tuple[Tensor, Tensor]:
        """Return the TCP's position `[w, 3]` in metres and rotation matrix `[w, 3, 3]`."""
        tcp = self.frames(joint_pos)[1]
        return tcp[:, :3, 3], tcp[:, :3, :3]

    def jacobian(self, joint_pos: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return position `[w, 3]`, rotation `[w, 3, 3]` and Jacobian `[w, 6, 7]` (linear, then angular)."""
        frames, tcp = self.frames(joint_pos)
        axes = frames[..., :3, 2]
        linear = torch.linalg.cross(axes, tcp[:, None, :3, 3] - frames[..., :3, 3])
        return tcp[:, :3, 3], tcp[:, :3, :3], torch.cat([linear, axes], -1).transpose(1, 2)
