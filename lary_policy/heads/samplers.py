"""Which samples a step sees: class-balanced draws, and each process's part of a batch."""

from __future__ import annotations

import math
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
    return shares_of(total, rank, count)[0]


def shares_of(total: int, rank: int, count: int, micro_batch: int | None = None) -> list[Share]:
    """Return a process's share of a batch in parts of at most `micro_batch` samples.

    Every process gets as many parts; summed over parts and averaged over processes, weighted mean losses are
    the mean over the batch.
    """
    own = torch.arange(total)[rank::count]
    most = math.ceil(total / count)
    size = min(micro_batch or most, most)
    parts = [own[i * size : (i + 1) * size] for i in range(math.ceil(most / size))]
    idle = torch.zeros(1, dtype=torch.int64)
    return [Share(p if len(p) else idle, total, len(p) * count / total) for p in parts]
