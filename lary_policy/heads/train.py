"""One training loop for every head: AdamW, warm-up, best epoch on val."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lary_policy.errors import TrainingError
from lary_policy.heads.batches import LatentBatches
from lary_policy.heads.config import TrainConfig
from lary_policy.heads.objective import Objective
from lary_policy.heads.precision import autocast, resolve_precision

_EVAL_BATCH = 512


@dataclass(frozen=True)
class EpochRecord:
    """One line of a training history.

    Attributes:
        epoch: 1-based.
        epochs: Planned epochs.
        train_loss: Mean loss over the epoch.
        val_score: Mean of the objective's score on val, lower is better.
        learning_rate: At the last step of the epoch.
        seconds: Wall time of the epoch.
    """

    epoch: int
    epochs: int
    train_loss: float
    val_score: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class TrainResult:
    """Outcome of a training run; the head itself holds the weights of the best epoch.

    Attributes:
        best_epoch: 1-based epoch with the lowest val score.
        best_score: That score.
        history: One record an epoch.
        seconds: Wall time.
        num_params: Trained parameters.
        precision: `float32` or `bfloat16`.
    """

    best_epoch: int
    best_score: float
    history: tuple[EpochRecord, ...]
    seconds: float
    num_params: int
    precision: str


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Return the learning rate of step 0..total-1.

    Warm-up is linear from 0 over int(warmup_fraction * total) steps (protocol section 5.3). `constant` stays
    there; `cosine` ends at exactly 0, as the reference steps its schedule before each iteration (4.2).
    """
    warmup = int(config.warmup_fraction * total)
    if step < warmup:
        return config.lr * step / warmup
    if config.schedule == "constant":
        return config.lr
    return 0.5 * config.lr * (1 + math.cos(math.pi * (step + 1 - warmup) / (total - warmup)))


def train(
    head: nn.Module,
    train_set: LatentBatches,
    val_set: LatentBatches,
    objective: Objective,
    config: TrainConfig,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> TrainResult:
    """Train `head` in place and leave it, in eval mode, with the weights of its best epoch on val.

    Given the seed, the initial weights and the number of threads the result is deterministic on CPU.

    Args:
        head: Any module that the objective can call; moved to `config.device`.
        train_set: Samples to learn from.
        val_set: Samples to choose the epoch by.
        objective: Loss and selection score.
        config: Optimiser, schedule, seed, precision, device.
        on_epoch: Called after each epoch, for progress bars.

    Raises:
        TrainingError: A split is empty, or loss or score stop being finite.
    """
    _require_samples(train_set, val_set)
    started = time.perf_counter()
    precision = resolve_precision(config.precision, config.device)
    train_set, val_set = (s.to(config.device, precision) for s in (train_set, val_set))
    head.to(config.device)
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.AdamW(
        head.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    best: tuple[float, int, dict[str, Tensor]] = (math.inf, 0, {})
    history: list[EpochRecord] = []
    for epoch in range(1, config.epochs + 1):
        epoch_started = time.perf_counter()
        loss, rate = _train_epoch(head, train_set, objective, config, optimiser, generator, epoch)
        score = mean_score(head, val_set, objective, precision)
        _require_finite(score, f"val score after epoch {epoch}", config)
        if score < best[0]:
            best = (score, epoch, {k: v.detach().clone() for k, v in head.state_dict().items()})
        seconds = time.perf_counter() - epoch_started
        history.append(EpochRecord(epoch, config.epochs, loss, score, rate, seconds))
        if on_epoch is not None:
            on_epoch(history[-1])
    head.load_state_dict(best[2])
    head.eval()
    params = sum(p.numel() for p in head.parameters() if p.requires_grad)
    seconds = time.perf_counter() - started
    name = str(precision).removeprefix("torch.")
    return TrainResult(best[1], best[0], tuple(history), seconds, params, name)


@torch.inference_mode()
def mean_score(
    head: nn.Module, samples: LatentBatches, objective: Objective, precision: torch.dtype = torch.float32
) -> float:
    """Return the objective's mean score over all samples; leaves the head in eval mode."""
    head.eval()
    with autocast(samples.device, precision):
        scores = [objective.score(head, batch) for batch in samples.ordered(_EVAL_BATCH)]
    return float(torch.cat(scores).double().mean())


def _train_epoch(
    head: nn.Module,
    samples: LatentBatches,
    objective: Objective,
    config: TrainConfig,
    optimiser: torch.optim.AdamW,
    generator: torch.Generator,
    epoch: int,
) -> tuple[float, float]:
    """Run one epoch; return its mean loss and the last learning rate."""
    head.train()
    steps = math.ceil(len(samples) / config.batch_size)
    losses, rate = [], 0.0
    batches = samples.shuffled(config.batch_size, generator, balanced=config.balanced)
    for step, batch in enumerate(batches, start=(epoch - 1) * steps):
        rate = learning_rate(step, config.epochs * steps, config)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with autocast(samples.device, samples.dtype):
            loss = objective.loss(head, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if config.grad_clip is not None:
            nn.utils.clip_grad_norm_(head.parameters(), config.grad_clip)
        optimiser.step()
        losses.append(loss.detach())
    mean = float(torch.stack(losses).double().mean())
    _require_finite(mean, f"training loss in epoch {epoch}", config)
    return mean, rate


def _require_finite(value: float, what: str, config: TrainConfig) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            expected=f"a finite {what}",
            got=f"{value}",
            fix=f"Lower head.train.lr (now {config.lr}), set head.train.grad_clip, or train in float32.",
        )


def _require_samples(train_set: LatentBatches, val_set: LatentBatches) -> None:
    for name, samples in (("train", train_set), ("val", val_set)):
        if len(samples) == 0:
            raise TrainingError(
                expected=f"at least one sample in the {name} split",
                got="none",
                fix="Collect more episodes, or check the splits with `lary data verify`.",
            )
