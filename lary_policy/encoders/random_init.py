"""Weights drawn from a seed, without touching the caller's random state."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def build_seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return `build()` run under `seed`; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
