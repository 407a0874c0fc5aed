"""Which samples a step sees: class-balanced draws, and each process's part of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lary_policy.errors import ShapeError


def balanced_order(targets: Tensor, seed: int) -> Tensor:
    """Draw as many samples as there are, with replacement and every class equally likely.

    The draw of the reference, number by number: weights 1 / count of the class from NumPy's generator seeded
    with seed plus epoch (protocol section 4.2).

    Args:
        targets: Class of each sample, int64 `[N]`.
        seed: Of the draw.

    Raises:
        ShapeError: Targets are not class indices.
    """
    if targets.is_floating_point():
        raise ShapeError(
            expected="class indices as targets for balanced sampling",
            got=f"{targets.dtype} targets",
            fix="Set head.train.balanced: false for a regression head.",
        )
    classes = targets.cpu().numpy()
    present, counts = np.unique(classes, return_counts=True)
    weights = (1.0 / (counts * len(present)))[np.searchsorted(present, classes)]
    drawn = np.random.default_rng(seed).choice(len(classes), len(classes), p=weights / weights.sum())
    return torch.from_numpy(drawn)


@dataclass(frozen=True)
class Share:
    """One process's part of a batch.

    Attributes:
        positions: Its samples' places in the batch, int64. A process without a sample takes the first one, at
            weight 0, as gradients are only exchanged by those that have some.
        total: Samples in the batch.
        weight: Factor of its mean loss that makes the mean over processes the mean over samples.
    """

    positions: Tensor
    total: int
    weight: float

    def draw(self, make: Callable[[int], Tensor]) -> Tensor:
        """Return this part of `make(total)`: random numbers that do not depend on how a batch is shared."""
        return make(self.total)[self.positions]


def share_of(total: int, rank: int, count: int) -> Share:
    """Return the share of process `rank` of `count`: every `count`-th sample, as the reference's sampler."""
    positions = torch.arange(total)[rank::count]
    if len(positions) == 0:
        return Share(torch.zeros(1, dtype=torch.int64), total, 0.0)
    return Share(positions, total, len(positions) * count / total)
