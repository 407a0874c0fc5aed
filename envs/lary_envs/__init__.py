"""Batched tabletop simulation for closed-loop evaluation: MuJoCo physics, ray-traced frames, no OpenGL."""

from __future__ import annotations

import importlib
from typing import Any

from lary_envs.gym import register_envs

_EXPORTS = {
    "DIVERGED": "lary_envs.failures",
    "EndEffectorController": "lary_envs.controller",
    "Expert": "lary_envs.expert",
    "FAILURES": "lary_envs.failures",
    "OUT_OF_REACH": "lary_envs.failures",
    "SimEnv": "lary_envs.env",
    "make_expert": "lary_envs.expert",
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
