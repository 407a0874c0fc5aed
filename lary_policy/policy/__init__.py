"""LeRobot policies on the package's encoders; names are imported on first use."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "EncoderConfig": "lary_policy.policy.encoder_config",
    "LaryConfig": "lary_policy.policy.configuration_lary",
    "LaryPolicy": "lary_policy.policy.modeling_lary",
    "local_card": "lary_policy.policy.card",
    "make_lary_pre_post_processors": "lary_policy.policy.processor_lary",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import public names on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'. Public: {', '.join(__all__)}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
