"""The row that LARYBench's regression writes for a finished run, from our evaluations."""

from __future__ import annotations

from lary_policy.heads.evaluate import ActionEvaluation
from lary_policy.heads.history import TrainResult


def reference_row(trained: TrainResult, evaluations: dict[str, ActionEvaluation]) -> dict[str, float]:
    """Return the columns of its `best_result.csv` (protocol section 5.4).

    Its loss is the mean over batches, ours over samples: they differ where the last batch is smaller.

    Args:
        trained: The run, selected by the best epoch on `val_seen`.
        evaluations: Of the selected weights on `val_seen` and, if there is one, `val_unseen`.
    """
    row: dict[str, float] = {
        "best_epoch": trained.best_epoch,
        "train_loss": trained.history[trained.best_epoch - 1].train_loss,
    }
    for split, evaluation in evaluations.items():
        row[f"{split}_loss"] = evaluation.huber()
        by_dim = evaluation.squared_error.double().mean((0, 1))
        row[f"{split}_mse"] = float(by_dim.mean())
        for label, value in zip(evaluation.embodiment.labels, by_dim.tolist(), strict=True):
            row[f"{split}_mse_{label}"] = value
        for name, indices in evaluation.embodiment.group_indices().items():
            row[f"{split}_mse_{name}"] = float(by_dim[list(indices)].mean())
    return row
