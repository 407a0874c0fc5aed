"""What a head is given at once: a batch of samples, and each process's part of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


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


@dataclass(frozen=True)
class Batch:
    """Some samples, as a head is given them.

    Attributes:
        latents: `[b t c n d]`.
        targets: Normalised actions `[b k a]` or class indices `[b]`.
        proprio: Normalised proprioception `[b p]` or None.
        share: Which part of a batch of several processes this is, or None for all of it.
    """

    latents: Tensor
    targets: Tensor
    proprio: Tensor | None = None
    share: Share | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Arguments of a head's forward."""
        return (self.latents,) if self.proprio is None else (self.latents, self.proprio)

    def draw(self, make: Callable[[int], Tensor]) -> Tensor:
        """Return `make(b)`, or this process's part of the numbers made for the whole batch."""
        return make(len(self.targets)) if self.share is None else self.share.draw(make)


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
