"""Does this encoder's latent space drive a robot? Probes and closed-loop rollouts for LARYBench."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "ActionExpert": "lary_policy.heads",
    "ActionStats": "lary_policy.actions",
    "AttentiveProbe": "lary_policy.heads",
    "Embodiment": "lary_policy.actions",
    "EncoderSpec": "lary_policy.encoders",
    "EpisodeResult": "lary_policy.types",
    "LaryPolicyError": "lary_policy.errors",
    "LatentEncoder": "lary_policy.encoders",
    "LatentSpec": "lary_policy.types",
    "LatentStore": "lary_policy.data",
    "Score": "lary_policy.scores",
    "encoder_spec": "lary_policy.encoders",
    "list_encoders": "lary_policy.encoders",
    "load_embodiment": "lary_policy.actions",
    "load_encoder": "lary_policy.encoders",
    "load_pairs": "lary_policy.data",
    "register_encoder": "lary_policy.encoders",
    "run_suite": "lary_policy.stages.suite",
}

__all__ = [*sorted(_EXPORTS), "__version__"]


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `import lary_policy` and `lary --help` stay fast."""
    if name not in _EXPORTS:
        raise AttributeError(
            f"module 'lary_policy' has no attribute '{name}'. Public names: {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
