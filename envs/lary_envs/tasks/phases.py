"""Legs that scripted experts are made of, and helpers to write their waypoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lary_envs.tasks.state import WorldState


def _reached(_: WorldState) -> bool:
    return True


@dataclass(frozen=True)
class Phase:
    """One leg of an expert."""

    name: str  # for people
    # State to target poses `[w, A, 7]` of all arms (`[w, 7]` where there is one arm)
    waypoint: Callable[[WorldState], Tensor]
    # The leg is over when commanded and measured position of every arm are this near to the waypoint and the
    # condition `done`, bool `[w]`, holds.
    tolerance_m: float
    done: Callable[[WorldState], Tensor | bool] = _reached
    speed_m: float = 0.02  # longest move in one control step, metres
    free: bool = False  # far from contact: noise may be injected
    track: bool = False  # keep reading the object's pose; False uses the pose at the start of the leg


def pose(position: Tensor, yaw_rad: Tensor | float, gripper: float) -> Tensor:
    """Return downward poses `[w, 7]` at `[w, 3]` positions."""
    out = position.new_zeros(len(position), 7)
    out[:, :3] = position
    out[:, 5] = yaw_rad
    out[:, 6] = gripper
    return out


def both(left: Tensor, right: Tensor) -> Tensor:
    """Return poses `[w, 2, 7]`, or points `[w, 2, 3]`, of a left and a right arm."""
    return torch.stack([left, right], 1)


def pair(centre: Tensor, yaw_rad: Tensor, half_apart_m: float, gripper: float = 1.0) -> Tensor:
    """Return downward poses `[w, 2, 7]` to the left and right of centres `[w, 3]`, turned by yaws `[w]`."""
    across = torch.stack([-yaw_rad.sin(), yaw_rad.cos(), torch.zeros_like(yaw_rad)], -1) * half_apart_m
    return both(pose(centre + across, yaw_rad, gripper), pose(centre - across, yaw_rad, gripper))


def at_height(position: Tensor, height_m: float) -> Tensor:
    """Return `[w, 3]` positions with their z replaced."""
    return torch.cat([position[:, :2], torch.full_like(position[:, 2:], height_m)], -1)
