"""Training of heads: `fit` is the only call that runs make, `predict` asks what it made."""

from __future__ import annotations

from lary_policy.heads.training.batches import LatentBatches
from lary_policy.heads.training.epoch import REFERENCE_SWEEP
from lary_policy.heads.training.fit import fit, predict
from lary_policy.heads.training.loggers import METRICS, MetricLogger, json_line, list_loggers, open_logger
from lary_policy.heads.training.resume import (
    EpochRecord,
    TrainResult,
    content_sha256,
    read_state,
    restore_optimiser,
    write_state,
)
from lary_policy.heads.training.workers import (
    Workers,
    agree,
    connect,
    everyones,
    first_alone,
    first_then_all,
    open_workers,
    wait_for_all,
)

__all__ = [
    "METRICS",
    "REFERENCE_SWEEP",
    "EpochRecord",
    "LatentBatches",
    "MetricLogger",
    "TrainResult",
    "Workers",
    "agree",
    "connect",
    "content_sha256",
    "everyones",
    "first_alone",
    "first_then_all",
    "fit",
    "json_line",
    "list_loggers",
    "open_logger",
    "open_workers",
    "predict",
    "read_state",
    "restore_optimiser",
    "wait_for_all",
    "write_state",
]
