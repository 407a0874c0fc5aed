"""What the splits of a source are made of, see `lary_policy.runs.composition`."""

from __future__ import annotations

from lary_policy.runs.composition import compositions, split_sizes

__all__ = ["compositions", "split_sizes"]
