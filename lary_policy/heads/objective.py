"""What a head is trained on and what its best epoch is chosen by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from lary_policy.heads.batch import Batch


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
