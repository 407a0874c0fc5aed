"""Ray-traced frames without OpenGL."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "RayTracer": "lary_envs.rendering.renderer",
    "TABLE_TEXTURES": "lary_envs.rendering.textures",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import public names on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'. Public: {', '.join(__all__)}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
