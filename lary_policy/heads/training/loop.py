"""One training loop for every head and every sweep: AdamW, schedule, selection on val, several processes."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from lary_policy.errors import TrainingError
from lary_policy.heads.config import TrainConfig
from lary_policy.heads.objective import Objective
from lary_policy.heads.registry import DRAWING
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.heads.training.epoch import TrainingRun, mean_scores, train_epoch
from lary_policy.heads.training.loggers import MetricLogger
from lary_policy.heads.training.resume import (
    EpochRecord,
    Progress,
    TrainResult,
    identity,
    load_progress,
    save_progress,
)
from lary_policy.machine import kept_heap

# A checkpoint is written when training took this many times as long as writing the last one, or if that was
# quick: the moments of a head of 4 million weights take a fifth of a second, a sixth of its epoch.
_SAVE_EVERY, _SAVE_CHEAP_S = 100, 0.05


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
        head: Any module that the objective can call, or a `HeadStack` of one for each pair of
            `config.sweep`; moved to `config.device`. Of a stack only the selected head is as selected.
        train_set: Samples to learn from.
        val_set: Samples to choose the epoch, and the head of a sweep, by.
        objective: Loss and selection score of one head.
        config: Optimiser, schedule, seed, precision, device.
        on_epoch: Called after each epoch, for progress bars; by the first process only.
        checkpoint: File from which an interrupted run goes on; written after each epoch, unless that would
            take more than a hundredth of the time.
        loggers: Where the history also goes; by the first process only.

    Raises:
        TrainingError: A split is empty, loss or score stop being finite, or the checkpoint belongs to another
            run.
        ConfigError: There is not one (lr, weight decay) for each head.
    """
    _require_samples(train_set, val_set)
    started = time.perf_counter()
    job = TrainingRun.create(head, train_set, val_set, objective, config)
    optimisers = [part.optimiser for part in job.parts]
    wanted = identity(head, train_set, val_set, objective.name, config) if checkpoint else {}
    progress = Progress()
    if checkpoint is not None:
        progress = load_progress(checkpoint, wanted, head, optimisers, job.generator)
    progress.skipped = progress.skipped or [0] * len(job.members)
    with _own_randomness(job), kept_heap(job.workers.device):
        saved, cost = time.perf_counter(), 0.0
        while not _is_over(progress, config):
            _advance(job, progress)
            if job.workers.rank == 0:
                now = time.perf_counter()
                due = _is_over(progress, config) or now - saved >= _SAVE_EVERY * cost or cost < _SAVE_CHEAP_S
                if checkpoint is not None and due:
                    save_progress(checkpoint, wanted, progress, head, optimisers, job.generator)
                    saved = time.perf_counter()
                    cost = saved - now
                _tell(progress.history[-1], objective.name, on_epoch, loggers)
    job.close()
    job.members[progress.best_member].load_state_dict(progress.best_weights)
    head.eval()
    return _result(job, progress, time.perf_counter() - started)


def _is_over(progress: Progress, config: TrainConfig) -> bool:
    """Return whether all epochs were run, or `patience` of them without a better score."""
    patient = config.patience is None or progress.epoch - progress.best_epoch < config.patience
    return progress.epoch >= config.epochs or not patient


@contextlib.contextmanager
def _own_randomness(job: TrainingRun) -> Iterator[None]:
    """Leave the global random state alone; heads that draw from it train one after the other."""
    if job.objective.recordable:
        yield
        return
    device = torch.device(job.workers.device)
    with DRAWING, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _result(job: TrainingRun, progress: Progress, seconds: float) -> TrainResult:
    chosen = job.members[progress.best_member]
    return TrainResult(
        best_epoch=progress.best_epoch,
        best_score=progress.best_score,
        history=tuple(progress.history),
        seconds=seconds,
        num_params=sum(p.numel() for p in chosen.parameters() if p.requires_grad),
        precision=str(job.train_set.dtype).removeprefix("torch."),
        best_member=progress.best_member,
        member_lr=job.config.members,
        skipped=tuple(progress.skipped),
    )


def _advance(job: TrainingRun, progress: Progress) -> None:
    """Train and score one epoch."""
    config, started = job.config, time.perf_counter()
    epoch = progress.epoch + 1
    losses, factor, skipped = train_epoch(job, epoch)
    scores = mean_scores(job.members, job.val_set, job.objective, job.val_set.dtype, job.workers).tolist()
    # A head that diverged may still guess well: what it answers is then the same for all samples.
    healthy = [
        math.isfinite(score) and math.isfinite(loss) for score, loss in zip(scores, losses, strict=True)
    ]
    member = min(range(len(scores)), key=lambda i: (not healthy[i], scores[i]))
    score, rate = scores[member], factor * config.members[member][0]
    _require_finite(losses[member], f"training loss in epoch {epoch}", config)
    _require_finite(score, f"val score after epoch {epoch}", config)
    if config.select == "last" or score < progress.best_score:
        state, kept = job.members[member].state_dict(), progress.best_weights
        for name, value in state.items():
            if name in kept:  # into the same memory: a second copy of a large head may be too much
                kept[name].copy_(value)
            else:
                kept[name] = value.detach().clone()
        progress.best_score, progress.best_epoch, progress.best_member = score, epoch, member
    progress.skipped = [before + now for before, now in zip(progress.skipped, skipped, strict=True)]
    seconds = time.perf_counter() - started
    progress.history.append(
        EpochRecord(epoch, config.epochs, losses[member], score, rate, seconds, tuple(scores))
    )
    progress.epoch = epoch


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
