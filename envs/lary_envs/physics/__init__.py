"""Batched physics: MuJoCo in C, or MuJoCo Warp."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "BatchPhysics": "lary_envs.physics.batch",
    "Bounded": "lary_envs.physics.batch",
    "GOAL_BODIES": "lary_envs.physics.measure",
    "Measurement": "lary_envs.physics.measure",
    "POSE_FIELDS": "lary_envs.physics.batch",
    "Physics": "lary_envs.physics.batch",
    "WarpPhysics": "lary_envs.physics.warp",
    "body_id": "lary_envs.physics.measure",
    "make_physics": "lary_envs.physics.batch",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import public names on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'. Public: {', '.join(__all__)}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
