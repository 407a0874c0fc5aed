"""What a trained class head names: accuracy, and F1 of each class and along the long tail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from lary_policy.errors import ShapeError
from lary_policy.heads.training import LatentBatches, predict
from lary_policy.scores.intervals import Estimate, bootstrap_f1_ci, bootstrap_macro_ci, bootstrap_mean_ci
from lary_policy.scores.metrics import Metric, register_metric

TAIL_BUCKETS = ("head", "middle", "tail")
_ONE_CLASS = 0.98  # share of one class from which a head, or a split, is of that class alone


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


@dataclass(frozen=True)
class ClassEvaluation:
    """Predictions of a class head on N samples, on CPU.

    Attributes:
        class_names: Name of each class.
        logits: `[N classes]`.
        targets: int64 `[N]`.
        train_counts: Samples of each class in the training split; empty if that is not known.
    """

    class_names: tuple[str, ...]
    logits: Tensor
    targets: Tensor
    train_counts: tuple[int, ...] = ()

    @property
    def predictions(self) -> Tensor:
        """Most likely class of each sample, int64 `[N]`."""
        return self.logits.argmax(-1)

    @property
    def correct(self) -> Tensor:
        """1.0 where the prediction is right, `[N]`; its mean is the micro top-1 accuracy."""
        return (self.predictions == self.targets).float()

    @property
    def by_sample(self) -> tuple[str, Tensor]:
        """Name and values `[N]` of the metric by which heads are compared sample by sample."""
        return "top1", self.correct

    @property
    def confusion(self) -> Tensor:
        """Counts int64 `[classes classes]`: rows are true, columns predicted classes."""
        size = len(self.class_names)
        pairs = self.targets * size + self.predictions
        return torch.bincount(pairs, minlength=size * size).view(size, size)

    @property
    def scores(self) -> tuple[ClassScores, ...]:
        """Precision, recall and F1 of each class."""
        return class_scores(self.confusion, self.class_names)

    @property
    def baseline(self) -> float:
        """Top-1 accuracy of always naming the most frequent class, of training if its counts are known."""
        counts = torch.bincount(self.targets, minlength=len(self.class_names)).double()
        most = self.train_counts or tuple(counts.tolist())
        return float(counts[most.index(max(most))] / counts.sum())

    @property
    def collapsed(self) -> bool:
        """Whether nearly all predictions are of one class although the samples are not."""
        share, true = (float(torch.bincount(v).max() / len(v)) for v in (self.predictions, self.targets))
        return share >= _ONE_CLASS and true < _ONE_CLASS

    def warnings(self) -> tuple[str, ...]:
        """Return what a reader of the scores must know, one sentence each."""
        accuracy = float(self.correct.double().mean())
        if self.collapsed:
            name = self.class_names[int(self.predictions.mode().values)]
            return (
                f"The head names nearly every sample '{name}': its top-1 accuracy is {accuracy:.0%}, that of "
                f"the most frequent class {self.baseline:.0%}.",
            )
        if accuracy <= self.baseline < 1:
            return (
                f"The head is no better than the most frequent class: its top-1 accuracy is {accuracy:.0%}, "
                f"that of the class {self.baseline:.0%}.",
            )
        return ()


def evaluate_class(
    head: nn.Module,
    samples: LatentBatches,
    class_names: tuple[str, ...],
    *,
    train_counts: Sequence[int] = (),
    device: str = "cpu",
) -> ClassEvaluation:
    """Evaluate a class head in float32.

    Args:
        head: Maps `Batch.inputs` to logits `[b classes]`.
        samples: Targets are classes.
        class_names: Name of each class.
        train_counts: Samples of each class in the training split, if known.
        device: Where the head is.

    Raises:
        ShapeError: The head has another number of classes, a target is none of them, or there are no samples.
    """
    logits = predict(head, samples, device=device)
    if logits.shape[-1] != len(class_names) or int(samples.targets.max()) >= len(class_names):
        raise ShapeError(
            expected=f"{len(class_names)} classes",
            got=f"{logits.shape[-1]} logits and targets up to {int(samples.targets.max())}",
            fix="Build the label map from the train split and use it for every split.",
        )
    return ClassEvaluation(class_names, logits, samples.targets, tuple(train_counts))


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


def _top1(evaluation: ClassEvaluation, clusters: ArrayLike) -> dict[str, Estimate]:
    return {"top1": bootstrap_mean_ci(evaluation.correct.numpy(), clusters, rate=True)}


def _top1_macro(evaluation: ClassEvaluation, clusters: ArrayLike) -> dict[str, Estimate]:
    return {
        "top1_macro": bootstrap_macro_ci(evaluation.correct.numpy(), evaluation.targets.numpy(), clusters)
    }


def _f1_macro(evaluation: ClassEvaluation, clusters: ArrayLike) -> dict[str, Estimate]:
    """`f1_macro` over all classes and, if training's counts are known, `f1_macro/<bucket>` of its tail."""
    true, predicted = evaluation.targets.numpy(), evaluation.predictions.numpy()
    size = len(evaluation.class_names)
    found = {"f1_macro": bootstrap_f1_ci(true, predicted, size, clusters)}
    buckets = tail_buckets(evaluation.train_counts) if evaluation.train_counts else {}
    for name, some in buckets.items():
        if np.isin(true, some).any():
            found[f"f1_macro/{name}"] = bootstrap_f1_ci(true, predicted, size, clusters, some=some)
    return found


for _metric in (
    Metric("top1", "top-1 accuracy", True, True, order=20, of=ClassEvaluation, estimate=_top1),
    Metric(
        "top1_macro",
        "top-1 accuracy, mean over classes",
        True,
        True,
        order=21,
        of=ClassEvaluation,
        estimate=_top1_macro,
    ),
    Metric("f1_macro", "F1, mean over classes", True, True, order=23, of=ClassEvaluation, estimate=_f1_macro),
):
    register_metric(_metric)
