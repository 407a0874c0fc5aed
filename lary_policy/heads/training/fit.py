"""From the description of a head to a trained one: the call that stages make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lary_policy.heads.files import HeadMeta, build_head
from lary_policy.heads.registry import Head, TrainConfig
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.heads.training.epoch import HeadStack, members_of
from lary_policy.heads.training.loggers import MetricLogger
from lary_policy.heads.training.loop import train
from lary_policy.heads.training.objective import Objective, default_objective
from lary_policy.heads.training.resume import EpochRecord, TrainResult

_MEMBER_SEEDS = 1 << 20  # heads of one sweep start apart, and apart from those of the next run's seed


def fit(
    meta: HeadMeta,
    train_set: LatentBatches,
    val_set: LatentBatches,
    config: TrainConfig,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    *,
    objective: Objective | None = None,
    checkpoint: Path | None = None,
    loggers: Sequence[MetricLogger] = (),
) -> tuple[Head, TrainResult]:
    """Build and train a head, or the heads of a sweep, and return the selected one in eval mode.

    Args:
        meta: Description of the head.
        train_set: Samples to learn from.
        val_set: Samples to choose epoch and head by.
        config: Optimiser, schedule, sweep, seed, precision, device.
        on_epoch: Called after each epoch.
        objective: Loss and selection score; LARYBench's for this kind of head by default.
        checkpoint: File written after each epoch, from which an interrupted run goes on.
        loggers: Where the history also goes.

    Raises:
        TrainingError: See `train`.
    """
    head = build_stack(meta, len(config.sweep)) if config.sweep else build_head(meta)
    objective = objective or default_objective(meta.model)
    result = train(
        head, train_set, val_set, objective, config, on_epoch, checkpoint=checkpoint, loggers=loggers
    )
    chosen: Head = members_of(head)[result.best_member]  # type: ignore[assignment]
    return chosen, result


def build_stack(meta: HeadMeta, count: int) -> HeadStack:
    """Build `count` untrained heads that `meta` describes, each with initial weights of its own."""
    return HeadStack([build_head(meta, seed=meta.seed + i * _MEMBER_SEEDS) for i in range(count)])
