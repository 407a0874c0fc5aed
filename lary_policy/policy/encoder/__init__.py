"""The observation encoder of LeRobot policies."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "ATTENTION": "lary_policy.policy.encoder.training",
    "ObservationEncoder": "lary_policy.policy.encoder.observation",
    "arrange": "lary_policy.policy.encoder.views",
    "camera_images": "lary_policy.policy.encoder.views",
    "encode_views": "lary_policy.policy.encoder.views",
    "load_exactly": "lary_policy.policy.encoder.strict",
    "seen_shape": "lary_policy.policy.encoder.views",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import public names on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'. Public: {', '.join(__all__)}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
