"""Where the semi-humanoid's grippers point: helpers for the waypoints of its tasks."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from lary_envs.kinematics import limit_length
from lary_envs.robots.humanoid.g1 import GRIPPER_TILT_RAD
from lary_envs.tasks import WorldState, both

type Side = Literal["left", "right"]
# Elbow and wrist bend by 85 and 100 degrees, so without leaning the hands reach a few centimetres around this
# x. Leaning by the way to it over this length leaves the wrist there while the tool centre point moves.
_COMFORT_X_M, _WRIST_M = 0.43, 0.28
_TURN_RAD = 0.05
APPROACH_M = 0.015  # in a step; at 0.02 m the elbow reaches its speed limit where the arm is most bent


def hand(position: Tensor, gripper: float, *, yaw_rad: Tensor | float = 0.0, lean: float = 0.0) -> Tensor:
    """Return poses `[w, 7]` at `[w, 3]` tool centre points (metres), with a gripper open from 0 to 1.

    The fingers close across a thing that lies along y, turned by a yaw about z; `lean` is the part of the
    distance along x that is covered by leaning forwards or back.
    """
    out = torch.zeros_like(position[:, :1]).repeat(1, 7)
    out[:, :3] = position
    out[:, 4] = lean * (_COMFORT_X_M - position[:, 0]) / _WRIST_M
    out[:, 5] = yaw_rad
    out[:, 6] = gripper
    return out


def hands(state: WorldState, left: Tensor, right: Tensor) -> Tensor:
    """Return poses `[w, 2, 7]` of both hands, turned by 0.05 rad at most from how they are.

    A turn about the tool centre point swings a wrist 0.32 m away: turned faster, joints reach their speed
    limits.
    """
    wanted = both(left, right)
    turn = limit_length(wanted[..., 3:6] - state.arms[..., 3:6], _TURN_RAD)
    return torch.cat([wanted[..., :3], state.arms[..., 3:6] + turn, wanted[..., 6:]], -1)


def withdrawn(position: Tensor, distance_m: float, side: Side) -> Tensor:
    """Return `[w, 3]` positions further back along the axis of a tilted gripper: upwards and outwards."""
    outwards = math.sin(GRIPPER_TILT_RAD) * (1.0 if side == "left" else -1.0)
    return position + point(position, 0.0, outwards, math.cos(GRIPPER_TILT_RAD)) * distance_m


def point(like: Tensor, x: float, y: float, z: float) -> Tensor:
    """Return one point `[w, 3]` in the worlds of `[w, ...]`, without a copy from host to device."""
    zeros = torch.zeros_like(like[:, 0])
    return torch.stack([zeros + x, zeros + y, zeros + z], -1)
