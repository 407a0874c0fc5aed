"""Open-MAGVIT2 as a frame encoder."""

from __future__ import annotations

from lary_policy.encoders.families.magvit2.encoder import OPEN_MAGVIT2
from lary_policy.encoders.families.magvit2.model import Magvit2Autoencoder, Magvit2Config, magvit2_tensors

__all__ = [
    "OPEN_MAGVIT2",
    "Magvit2Autoencoder",
    "Magvit2Config",
    "magvit2_tensors",
]
