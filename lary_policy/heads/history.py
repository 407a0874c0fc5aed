"""What a training run leaves behind besides weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochRecord:
    """One line of a training history.

    Attributes:
        epoch: 1-based.
        epochs: Planned epochs.
        train_loss: Mean loss over the epoch, of the best head of a sweep.
        val_score: Mean of the objective's score on val, lower is better; the best of a sweep.
        learning_rate: At the last step of the epoch, of the best head of a sweep.
        seconds: Wall time of the epoch.
        member_scores: `val_score` of each head of a sweep, or of the one head.
    """

    epoch: int
    epochs: int
    train_loss: float
    val_score: float
    learning_rate: float
    seconds: float
    member_scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class TrainResult:
    """Outcome of a training run; the head itself holds the selected weights.

    Attributes:
        best_epoch: 1-based epoch of the selected weights.
        best_score: Its val score.
        history: One record an epoch.
        seconds: Wall time.
        num_params: Trained parameters of one head.
        precision: `float32` or `bfloat16`.
        best_member: Index of the selected head of a sweep.
        member_lr: Peak learning rate and weight decay of each head of a sweep, or of the one head.
        skipped: Steps that each head of a sweep left out because its loss was not finite.
    """

    best_epoch: int
    best_score: float
    history: tuple[EpochRecord, ...]
    seconds: float
    num_params: int
    precision: str
    best_member: int = 0
    member_lr: tuple[tuple[float, float], ...] = ()
    skipped: tuple[int, ...] = ()
