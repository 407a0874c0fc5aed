"""villa-X's latent action model."""

from __future__ import annotations

from lary_policy.encoders.families.villax.encoder import VILLA_X

__all__ = [
    "VILLA_X",
]
