"""One training loop for every head and every sweep: AdamW, schedule, selection on val, several processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lary_policy.errors import ConfigError, TrainingError
from lary_policy.heads.batches import LatentBatches
from lary_policy.heads.class_sweep import members_of
from lary_policy.heads.config import TrainConfig
from lary_policy.heads.history import EpochRecord, TrainResult
from lary_policy.heads.loggers import MetricLogger
from lary_policy.heads.objective import Objective
from lary_policy.heads.precision import autocast, resolve_precision
from lary_policy.heads.resume import Progress, identity, load_progress, save_progress
from lary_policy.heads.samplers import balanced_order, share_of
from lary_policy.heads.schedules import learning_rate, learning_rate_factor
from lary_policy.heads.workers import SingleWorker, Workers, open_workers

__all__ = ["EpochRecord", "TrainResult", "learning_rate", "mean_score", "train"]
_EVAL_BATCH = 512


def train(
    head: nn.Module,
    train_set: LatentBatches,
    val_set: LatentBatches,
    objective: Objective,
    config: TrainConfig,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    *,
    checkpoint: Path | None = None,
    loggers: Sequence[MetricLogger] = (),
) -> TrainResult:
    """Train `head` in place and leave it, in eval mode, with the selected weights.

    Given the seed, the initial weights and the number of threads the result is deterministic on CPU, and the
    same whether or not it was interrupted. Started by `accelerate launch` or `torchrun`, all processes train
    one head on one batch; its size is that of the whole batch.

    Args:
        head: Any module that the objective can call; moved to `config.device`. Of a `HeadStack`, trained
            with a sweep and a `stacked_objective`, only the selected head holds selected weights.
        train_set: Samples to learn from.
        val_set: Samples to choose the epoch, and the head of a sweep, by.
        objective: Loss and selection score.
        config: Optimiser, schedule, seed, precision, device.
        on_epoch: Called after each epoch, for progress bars; by the first process only.
        checkpoint: File written after each epoch, from which an interrupted run goes on.
        loggers: Where the history also goes; by the first process only.

    Raises:
        TrainingError: A split is empty, loss or score stop being finite, or the checkpoint belongs to another
            run.
        ConfigError: There is not one (lr, weight decay) for each head.
    """
    _require_samples(train_set, val_set)
    started = time.perf_counter()
    job = _Job.create(head, train_set, val_set, objective, config)
    wanted = identity(head, train_set, val_set, objective.name, config) if checkpoint else {}
    progress = _restore(job, checkpoint, wanted)
    with torch.random.fork_rng(devices=_cuda_devices(job.workers.device)):
        while progress.epoch < config.epochs:
            _advance(job, progress)
            if job.workers.rank == 0:
                if checkpoint is not None:
                    save_progress(checkpoint, wanted, progress, head, job.optimiser, job.generator)
                _tell(progress.history[-1], objective.name, on_epoch, loggers)
    chosen = job.members[progress.best_member]
    chosen.load_state_dict(progress.best_weights)
    head.eval()
    return TrainResult(
        progress.best_epoch,
        progress.best_score,
        tuple(progress.history),
        time.perf_counter() - started,
        sum(p.numel() for p in chosen.parameters() if p.requires_grad),
        str(job.precision).removeprefix("torch."),
        progress.best_member,
        config.members,
        tuple(progress.skipped),
    )


def mean_score(
    head: nn.Module, samples: LatentBatches, objective: Objective, precision: torch.dtype = torch.float32
) -> float:
    """Return the objective's mean score over all samples; leaves the head in eval mode."""
    return float(_mean_scores(head, samples, objective, precision, SingleWorker(samples.device)))


@dataclass(frozen=True, eq=False)
class _Job:
    """What stays the same over a training run."""

    head: nn.Module
    wrapped: nn.Module
    members: tuple[nn.Module, ...]
    train_set: LatentBatches
    val_set: LatentBatches
    objective: Objective
    config: TrainConfig
    workers: Workers
    optimiser: torch.optim.AdamW
    generator: torch.Generator
    precision: torch.dtype

    @classmethod
    def create(
        cls,
        head: nn.Module,
        train_set: LatentBatches,
        val_set: LatentBatches,
        objective: Objective,
        config: TrainConfig,
    ) -> _Job:
        members = members_of(head)
        if len(members) != len(config.members):
            raise ConfigError(
                expected=f"one (lr, weight decay) for each of {len(members)} heads",
                got=f"{len(config.members)}",
                fix="Build the head with `fit`, or set head.train.sweep to one pair a head.",
            )
        workers = open_workers(config.device)
        precision = resolve_precision(config.precision, workers.device)
        val_precision = resolve_precision(config.val_precision or config.precision, workers.device)
        head.to(workers.device)
        pairs = zip(members, config.members, strict=True)
        groups = [
            {"params": list(m.parameters()), "lr": lr, "weight_decay": decay} for m, (lr, decay) in pairs
        ]
        return cls(
            head,
            workers.wrap(head),
            members,
            train_set.to(workers.device, precision),
            val_set.to(workers.device, val_precision),
            objective,
            config,
            workers,
            torch.optim.AdamW(groups, fused=True),
            torch.Generator().manual_seed(config.seed),
            precision,
        )


def _restore(job: _Job, checkpoint: Path | None, wanted: dict[str, object]) -> Progress:
    progress = Progress()
    if checkpoint is not None:
        progress = load_progress(checkpoint, wanted, job.head, job.optimiser, job.generator)
    progress.skipped = progress.skipped or [0] * len(job.members)
    return progress


def _advance(job: _Job, progress: Progress) -> None:
    """Train and score one epoch."""
    config, started = job.config, time.perf_counter()
    epoch = progress.epoch + 1
    losses, factor, skipped = _train_epoch(job, epoch)
    scores = _mean_scores(job.head, job.val_set, job.objective, job.val_set.dtype, job.workers).tolist()
    member = min(range(len(scores)), key=lambda i: (not math.isfinite(scores[i]), scores[i]))
    score, rate = scores[member], factor * config.members[member][0]
    _require_finite(losses[member], f"training loss in epoch {epoch}", config)
    _require_finite(score, f"val score after epoch {epoch}", config)
    if config.select == "last" or score < progress.best_score:
        weights = {k: v.detach().clone() for k, v in job.members[member].state_dict().items()}
        progress.best_score, progress.best_epoch = score, epoch
        progress.best_member, progress.best_weights = member, weights
    progress.skipped = [before + now for before, now in zip(progress.skipped, skipped, strict=True)]
    seconds = time.perf_counter() - started
    progress.history.append(
        EpochRecord(epoch, config.epochs, losses[member], score, rate, seconds, tuple(scores))
    )
    progress.epoch = epoch


def _train_epoch(job: _Job, epoch: int) -> tuple[list[float], float, list[int]]:
    """Run one epoch; return each head's mean loss, the last factor of the rates, and steps left out."""
    config, workers, samples = job.config, job.workers, job.train_set
    job.head.train()
    order = (
        balanced_order(samples.targets, config.seed + epoch - 1)  # the reference seeds each epoch anew
        if config.balanced
        else samples.order(job.generator)
    )
    batches = order.split(config.batch_size)
    losses, factor = [], 0.0
    for step, rows in enumerate(batches, start=(epoch - 1) * len(batches)):
        factor = learning_rate_factor(step, config.epochs * len(batches), config)
        for group, (lr, _) in zip(job.optimiser.param_groups, config.members, strict=True):
            group["lr"] = lr * factor
        share = None if workers.count == 1 else share_of(len(rows), workers.rank, workers.count)
        batch = samples.gather(rows, share)
        torch.manual_seed(_step_seed(config.seed, step))
        with autocast(samples.device, samples.dtype):
            loss = job.objective.loss(job.wrapped, batch).reshape(-1) * (share.weight if share else 1.0)
        job.optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()
        losses.append(_step(job, loss.detach()))
    every = workers.mean(torch.stack(losses).double())
    finite = torch.isfinite(every)
    skipped = (~finite).sum(0).tolist() if len(job.members) > 1 else [0]
    # A head of a sweep leaves such steps out; a head on its own goes on with broken weights and is refused.
    means = every.nan_to_num(0, 0, 0).sum(0) / finite.sum(0) if len(job.members) > 1 else every.mean(0)
    return means.tolist(), factor, skipped


def _step(job: _Job, loss: Tensor) -> Tensor:
    """Update the heads whose loss `[s]` is finite in every process; return the loss."""
    if len(job.members) > 1:
        finite = job.workers.mean(torch.isfinite(loss).float()).tolist()
        for group, share in zip(job.optimiser.param_groups, finite, strict=True):
            if share < 1:
                for parameter in group["params"]:
                    parameter.grad = None
    if job.config.grad_clip is not None:
        for group in job.optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], job.config.grad_clip)
    job.optimiser.step()
    return loss


@torch.inference_mode()
def _mean_scores(
    head: nn.Module, samples: LatentBatches, objective: Objective, precision: torch.dtype, workers: Workers
) -> Tensor:
    """Return the mean score of each head `[s]` in float64; every sample counts once in all processes."""
    head.eval()
    parts = []
    with autocast(samples.device, precision):
        for rows in torch.arange(len(samples)).split(_EVAL_BATCH):
            share = share_of(len(rows), workers.rank, workers.count) if workers.count > 1 else None
            if share is None or share.weight > 0:
                batch = samples.gather(rows, share)
                parts.append(objective.score(head, batch).reshape(len(batch.targets), -1).double())
    if workers.count == 1:
        return torch.cat(parts).mean(0)
    width = len(members_of(head))
    total = (
        torch.cat(parts).sum(0) if parts else torch.zeros(width, dtype=torch.float64, device=samples.device)
    )
    return workers.mean(total) * workers.count / len(samples)


def _tell(
    record: EpochRecord,
    metric: str,
    on_epoch: Callable[[EpochRecord], None] | None,
    loggers: Sequence[MetricLogger],
) -> None:
    if on_epoch is not None:
        on_epoch(record)
    values = {
        "train/loss": record.train_loss,
        "train/lr": record.learning_rate,
        f"val/{metric}": record.val_score,
    }
    for logger in loggers:
        logger.log(record.epoch, values)


def _step_seed(seed: int, step: int) -> int:
    """Return a seed of its own for the random numbers of each step, so that a run can go on anywhere."""
    return (seed * 0x9E3779B97F4A7C15 + step) % (1 << 63)  # golden ratio: neighbouring seeds end up far apart


def _cuda_devices(device: str) -> list[torch.device]:
    return [torch.device(device)] if torch.device(device).type == "cuda" else []


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
