"""One process at a time: no job of a sweep computes what another one is computing."""

from __future__ import annotations

from lary_policy.paths import exclusive

__all__ = ["exclusive"]
