"""Gymnasium environments of all tasks, single and vectorised, and LeRobot's."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "LarySimEnv": "lary_envs.gym.lerobot",
    "gym_ids": "lary_envs.gym.registration",
    "register_envs": "lary_envs.gym.registration",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import public names on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'. Public: {', '.join(__all__)}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
