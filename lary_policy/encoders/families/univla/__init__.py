"""UniVLA's latent action model."""

from __future__ import annotations

from lary_policy.encoders.families.univla.encoder import UNIVLA

__all__ = [
    "UNIVLA",
]
