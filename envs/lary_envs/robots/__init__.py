"""One file a robot; each registers itself with `lary_envs.robots.robot.register_robot`."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "ARM": "lary_envs.robots.robot",
    "GRIPPER": "lary_envs.robots.robot",
    "Gripper": "lary_envs.robots.robot",
    "OBJECT": "lary_envs.robots.robot",
    "PADDLE_HALF_M": "lary_envs.robots.piper",
    "Robot": "lary_envs.robots.robot",
    "STATIC": "lary_envs.robots.robot",
    "list_robots": "lary_envs.robots.robot",
    "register_robot": "lary_envs.robots.robot",
    "robot_of": "lary_envs.robots.robot",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import public names on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'. Public: {', '.join(__all__)}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
