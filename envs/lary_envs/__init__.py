"""Batched tabletop simulation for closed-loop evaluation: MuJoCo physics, ray-traced frames, no OpenGL."""

from __future__ import annotations

import importlib
from typing import Any

from lary_envs.registration import register_envs

_EXPORTS = {
    "EndEffectorController": "lary_envs.controller",
    "Expert": "lary_envs.experts",
    "SimEnv": "lary_envs.env",
    "Task": "lary_envs.spec",
    "TaskSpec": "lary_envs.spec",
    "list_tasks": "lary_envs.spec",
    "make_expert": "lary_envs.experts",
    "register_task": "lary_envs.spec",
    "task_spec": "lary_envs.spec",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import public names on first use; Warp is loaded only when the first frame is rendered."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'lary_envs' has no attribute '{name}'. Names: {', '.join(__all__)}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)


register_envs()
