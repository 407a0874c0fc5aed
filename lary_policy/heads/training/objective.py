"""What a head is trained on and what its best epoch is chosen by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lary_policy.heads.attentive import AttentiveProbeConfig
from lary_policy.heads.dit import DiffusionExpertConfig, squared_cosine
from lary_policy.heads.registry import ModelConfig
from lary_policy.heads.training.batches import Batch

BatchTerm = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Objective:
    """A loss and a selection score.

    Attributes:
        name: Name of the score in histories.
        loss: Head and batch to the scalar that is minimised; it owns the forward pass, so that generative
            heads can add noise and call the head with it.
        score: Head and batch to one number a sample `[b]`, lower is better; its mean over the val split
            selects the epoch.
        recordable: Whether the loss does the same work in every step, draws nothing at random and never waits
            for the device; on CUDA such steps are recorded as a graph (`RecordedStep`).
    """

    name: str
    loss: BatchTerm
    score: BatchTerm
    recordable: bool = False


def _huber(head: nn.Module, batch: Batch) -> Tensor:
    return F.huber_loss(head(*batch.inputs).float(), batch.targets, delta=1.0)


def _squared_error(head: nn.Module, batch: Batch) -> Tensor:
    return (head(*batch.inputs).float() - batch.targets).square().flatten(1).mean(1)


def _error_rate(head: nn.Module, batch: Batch) -> Tensor:
    return (head(*batch.inputs).argmax(-1) != batch.targets).float()


def action_objective() -> Objective:
    """Huber loss (delta 1) on normalised actions, selected by their MSE (protocol sections 5.2 and 5.4)."""
    return Objective("mse", _huber, _squared_error, recordable=True)


def diffusion_objective(config: DiffusionExpertConfig) -> Objective:
    """Huber loss (delta 1) on predicted noise, selected by the MSE of drawn actions (protocol section 5.2).

    Steps, noise and dropped conditions come from torch's global generator, in the reference's order.
    """
    schedule = squared_cosine(config.train_steps)

    def loss(head: nn.Module, batch: Batch) -> Tensor:
        clean = batch.targets
        device = clean.device
        steps = batch.draw(lambda n: torch.randint(0, schedule.steps, (n,), device=device))
        noise = batch.draw(lambda n: torch.randn((n, *clean.shape[1:]), device=device))
        dropped = None
        if config.condition_dropout:
            dropped = batch.draw(lambda n: torch.rand(n, device=device)) < config.condition_dropout
        noisy = schedule.add_noise(clean, noise, steps)
        predicted = head(*batch.inputs, noisy=noisy, steps=steps, dropped=dropped)
        return F.huber_loss(predicted.float(), noise, delta=1.0)

    def score(head: nn.Module, batch: Batch) -> Tensor:
        return (head(*batch.inputs, share=batch.share).float() - batch.targets).square().flatten(1).mean(1)

    return Objective("mse", loss, score)


def class_objective(label_smoothing: float = 0.1) -> Objective:
    """Cross-entropy with label smoothing (protocol section 4.2), selected by the top-1 error rate."""

    def loss(head: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(head(*batch.inputs).float(), batch.targets, label_smoothing=label_smoothing)

    return Objective("error_rate", loss, _error_rate, recordable=True)


def default_objective(config: ModelConfig) -> Objective:
    """Return the objective that LARYBench trains a kind of head with."""
    if isinstance(config, DiffusionExpertConfig):
        return diffusion_objective(config)
    return class_objective() if isinstance(config, AttentiveProbeConfig) else action_objective()
