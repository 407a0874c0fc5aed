"""Precision, recall and F1 of each class, and how they fall along the long tail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lary_policy.errors import ShapeError

TAIL_BUCKETS = ("head", "middle", "tail")


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class.

    Attributes:
        name: The class.
        count: Evaluated samples of it.
        precision: Right predictions of all predictions of it; 0 if there are none.
        recall: Right predictions of all samples of it; its top-1 accuracy. 0 if there are no samples.
        f1: Their harmonic mean; 0 if both are.
    """

    name: str
    count: int
    precision: float
    recall: float
    f1: float


def class_scores(confusion: Tensor, names: Sequence[str]) -> tuple[ClassScores, ...]:
    """Return the scores of every class.

    Args:
        confusion: Counts `[classes classes]`: rows are true, columns predicted classes (the reference's file
            has them the other way round).
        names: Name of each class.

    Raises:
        ShapeError: There is not one name a class.
    """
    if tuple(confusion.shape) != (len(names), len(names)):
        raise ShapeError(
            expected=f"counts of {len(names)} x {len(names)} classes",
            got=f"{tuple(confusion.shape)}",
            fix="Pass the confusion of the evaluation whose classes these are.",
        )
    right, true, predicted = (v.double() for v in (confusion.diagonal(), confusion.sum(1), confusion.sum(0)))
    precision, recall = right / predicted.clamp_min(1), right / true.clamp_min(1)
    f1 = 2 * right / (true + predicted).clamp_min(1)
    columns = (true.long(), precision, recall, f1)
    return tuple(
        ClassScores(name, *values)
        for name, *values in zip(names, *(c.tolist() for c in columns), strict=True)
    )


def macro_f1(scores: Sequence[ClassScores]) -> float:
    """Return the mean F1 of the classes that have samples.

    Raises:
        ShapeError: No class has any.
    """
    present = [s.f1 for s in scores if s.count]
    if not present:
        raise ShapeError(expected="at least one evaluated sample", got="none", fix="Check the test split.")
    return sum(present) / len(present)


def tail_buckets(train_counts: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Split the classes into three buckets of equal size by how often the train split has them.

    Args:
        train_counts: Train samples of each class.

    Returns:
        Class numbers of `head`, `middle` and `tail`, most frequent first; ties in the order of the classes.
    """
    order = sorted(range(len(train_counts)), key=lambda i: -train_counts[i])
    cuts = [round(len(order) * i / len(TAIL_BUCKETS)) for i in range(len(TAIL_BUCKETS) + 1)]
    return {name: tuple(order[a:b]) for name, a, b in zip(TAIL_BUCKETS, cuts, cuts[1:], strict=False)}


def tail_f1(scores: Sequence[ClassScores], train_counts: Sequence[int]) -> dict[str, float]:
    """Return the macro F1 of each bucket of `tail_buckets` that has evaluated samples."""
    buckets = {name: [scores[i] for i in rows] for name, rows in tail_buckets(train_counts).items()}
    return {name: macro_f1(some) for name, some in buckets.items() if any(s.count for s in some)}


def top_k_accuracy(logits: Tensor, targets: Tensor, k: int) -> float:
    """Return the share of samples whose class is among the k largest logits `[N classes]`."""
    best = logits.topk(min(k, logits.shape[-1]), -1).indices
    return float((best == targets[:, None]).any(1).double().mean())


def train_counts(targets: Tensor, num_classes: int) -> tuple[int, ...]:
    """Return how often each class occurs in int64 targets `[N]`."""
    return tuple(torch.bincount(targets.cpu(), minlength=num_classes).tolist())
