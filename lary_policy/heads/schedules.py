"""Learning rate of every step."""

from __future__ import annotations

import math

from lary_policy.heads.config import TrainConfig


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Return the learning rate of step 0..total-1 (see `learning_rate_factor`)."""
    return config.lr * learning_rate_factor(step, total, config)


def learning_rate_factor(step: int, total: int, config: TrainConfig) -> float:
    """Return the learning rate of step 0..total-1 over its peak.

    Warm-up is linear from 0 over int(warmup_fraction * total) steps (protocol section 5.3). `constant` stays
    there; `cosine` ends at exactly 0, as the reference steps its schedule before each iteration (4.2).
    """
    warmup = int(config.warmup_fraction * total)
    if step < warmup:
        return step / warmup
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step + 1 - warmup) / (total - warmup)))
