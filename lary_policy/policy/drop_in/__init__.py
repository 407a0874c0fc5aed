"""LeRobot's own policies with an encoder of this package in place of their vision tower."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "LaryACTConfig": "lary_policy.policy.drop_in.configuration_lary_act",
    "LaryDiffusionConfig": "lary_policy.policy.drop_in.configuration_lary_diffusion",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import public names on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'. Public: {', '.join(__all__)}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
