"""One file or folder a family of encoders; each registers itself."""

from __future__ import annotations

from lary_policy.encoders.families.trained import OWN_PATCHES, OWN_WIDTH, TRAINED_CONFIG, TrainedLam
from lary_policy.encoders.families.transformers_vit import loading_problems, quiet_transformers

__all__ = [
    "OWN_PATCHES",
    "OWN_WIDTH",
    "TRAINED_CONFIG",
    "TrainedLam",
    "loading_problems",
    "quiet_transformers",
]
