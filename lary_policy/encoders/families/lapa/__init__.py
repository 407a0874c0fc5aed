"""LAPA and the latent action models after it."""

from __future__ import annotations

from lary_policy.encoders.families.lapa.variants import LAPA

__all__ = [
    "LAPA",
]
