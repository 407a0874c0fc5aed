"""LeRobot policies on the package's encoders; names are imported on first use."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "EncoderConfig": "lary_policy.policy.encoder_config",
    "LaryConfig": "lary_policy.policy.configuration_lary",
    "LaryPolicy": "lary_policy.policy.modeling_lary",
    "ObservationEncoder": "lary_policy.policy.observation_encoder",
    "load_exactly": "lary_policy.policy.strict_loading",
    "make_lary_pre_post_processors": "lary_policy.policy.processor_lary",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that LeRobot's plugin discovery stays fast."""
    if name not in _EXPORTS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'. Public: {', '.join(__all__)}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
