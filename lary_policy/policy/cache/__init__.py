"""Stored latents for the training of LeRobot policies."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "BuiltCache": "lary_policy.policy.cache.build",
    "CachePlan": "lary_policy.policy.cache.build",
    "LatentCache": "lary_policy.policy.cache.index",
    "build_cache": "lary_policy.policy.cache.build",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import public names on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'. Public: {', '.join(__all__)}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
