"""Training of heads: `fit` is the only call that runs make."""

from __future__ import annotations

from lary_policy.heads.training.batches import Batch, LatentBatches
from lary_policy.heads.training.epoch import REFERENCE_SWEEP, HeadStack, Job, train_epoch
from lary_policy.heads.training.fit import build_stack, fit
from lary_policy.heads.training.loggers import MetricLogger, list_loggers, open_logger
from lary_policy.heads.training.loop import train
from lary_policy.heads.training.objective import (
    Objective,
    action_objective,
    class_objective,
    default_objective,
    diffusion_objective,
)
from lary_policy.heads.training.resume import EpochRecord, TrainResult
from lary_policy.heads.training.step import kept_heap
from lary_policy.heads.training.workers import agree, connect, first_alone, first_then_all, wait_for_all

__all__ = [
    "REFERENCE_SWEEP",
    "Batch",
    "EpochRecord",
    "HeadStack",
    "Job",
    "LatentBatches",
    "MetricLogger",
    "Objective",
    "TrainResult",
    "action_objective",
    "agree",
    "build_stack",
    "class_objective",
    "connect",
    "default_objective",
    "diffusion_objective",
    "first_alone",
    "first_then_all",
    "fit",
    "kept_heap",
    "list_loggers",
    "open_logger",
    "train",
    "train_epoch",
    "wait_for_all",
]
