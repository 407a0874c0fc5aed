"""What a head is trained on and what its best epoch is chosen by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


class BatchLoss(Protocol):
    """A head's loss on a batch; it owns the forward pass, so that generative heads can add noise."""

    def __call__(self, head: nn.Module, batch: Batch, *, reduction: str = "mean") -> Tensor:
        """Return the scalar that is minimised, or with `reduction="none"` the loss of each number."""
        ...


@dataclass(frozen=True)
class Objective:
    """A loss and a selection score.

    Attributes:
        name: Name of the score in histories.
        loss: What is minimised.
        score: Head and batch to one number a sample `[b]`, lower is better; its mean over the val split
            selects the epoch.
        recordable: Whether the loss does the same work in every step, draws nothing at random and never waits
            for the device; on CUDA such steps are recorded as a graph (`RecordedStep`).
    """

    name: str
    loss: BatchLoss
    score: Callable[[nn.Module, Batch], Tensor]
    recordable: bool = False


def action_objective() -> Objective:
    """Huber loss (delta 1) on normalised actions, selected by their MSE (protocol sections 5.2 and 5.4)."""

    def loss(head: nn.Module, batch: Batch, *, reduction: str = "mean") -> Tensor:
        return F.huber_loss(head(*batch.inputs).float(), batch.targets, reduction=reduction, delta=1.0)

    def score(head: nn.Module, batch: Batch) -> Tensor:
        return (head(*batch.inputs).float() - batch.targets).square().flatten(1).mean(1)

    return Objective("mse", loss, score, recordable=True)


def class_objective(label_smoothing: float = 0.1) -> Objective:
    """Cross-entropy with label smoothing (protocol section 4.2), selected by the top-1 error rate."""

    def loss(head: nn.Module, batch: Batch, *, reduction: str = "mean") -> Tensor:
        logits = head(*batch.inputs).float()
        return F.cross_entropy(logits, batch.targets, reduction=reduction, label_smoothing=label_smoothing)

    def score(head: nn.Module, batch: Batch) -> Tensor:
        return (head(*batch.inputs).argmax(-1) != batch.targets).float()

    return Objective("error_rate", loss, score, recordable=True)
