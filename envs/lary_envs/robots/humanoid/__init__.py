"""A semi-humanoid after the G1: robot, body and poses."""

from __future__ import annotations

from lary_envs.robots.humanoid.g1 import HUMANOID
from lary_envs.robots.humanoid.poses import APPROACH_M, hand, hands, point, withdrawn

__all__ = [
    "APPROACH_M",
    "HUMANOID",
    "hand",
    "hands",
    "point",
    "withdrawn",
]
