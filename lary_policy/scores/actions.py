"""Errors of a trained head, one number a sample, ready for bootstrap intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lary_policy.actions import ActionStats, Embodiment
from lary_policy.errors import ShapeError
from lary_policy.heads.training import LatentBatches, TrainResult, predict
from lary_policy.scores.classes import ClassScores, class_scores, macro_f1
from lary_policy.scores.intervals import Estimate, bootstrap_mean_ci

_CONSTANT_VARIANCE = 1e-12  # physical units squared: a micrometre or microradian is rounding


@dataclass(frozen=True)
class ActionEvaluation:
    """Predictions of an action head on N samples of k actions of a numbers, on CPU in float32.

    Attributes:
        embodiment: Layout of the actions.
        predictions: Physical units `[N k a]`.
        targets: Physical units `[N k a]`.
        squared_error: Of normalised actions `[N k a]`, the probe's own metric.
        squared_error_physical: Of physical units `[N k a]` (m^2, rad^2, ...).
        rotation_error_deg: Geodesic angle `[N k]` (degrees) between predicted and true rotation of each
            rotation group.
    """

    embodiment: Embodiment
    predictions: Tensor
    targets: Tensor
    squared_error: Tensor
    squared_error_physical: Tensor
    rotation_error_deg: dict[str, Tensor]

    def per_sample(self, *, physical: bool = False) -> dict[str, Tensor]:
        """Return mean squared errors `[N]` by metric name.

        `mse` over everything, `mse/<group>` over the numbers of a group, `mse/<label>` of one number. A label
        that repeats the name of a group (a gripper of one number) is the same metric.

        Args:
            physical: Physical units instead of normalised ones; `mse` over everything is then left out, as it
                would add metres to radians.
        """
        errors = self.squared_error_physical if physical else self.squared_error
        by_dim = errors.mean(1)  # [N a]
        named = {} if physical else {"mse": by_dim.mean(1)}
        for name, indices in self.embodiment.group_indices().items():
            named[f"mse/{name}"] = by_dim[:, list(indices)].mean(1)
        for position, label in enumerate(self.embodiment.labels):
            named.setdefault(f"mse/{label}", by_dim[:, position])
        return named

    def r2_terms(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each sample's share `[N]` of both sums of R2 = 1 - residual / total, by the names of `r2`.

        The total is the squared distance from the evaluated samples' own mean, number by number. Each number
        counts by its variance over the evaluated samples; those that do not vary have no R2 and are left out.
        """
        spread = (self.targets.double() - self.targets.double().mean((0, 1))).square()
        error = (self.predictions.double() - self.targets.double()).square()
        scale = spread.mean((0, 1))
        varies = scale > _CONSTANT_VARIANCE
        scale = torch.where(varies, scale, torch.ones_like(scale))
        parts = {"r2": list(range(len(scale)))}
        parts |= {f"r2/{name}": list(i) for name, i in self.embodiment.group_indices().items()}
        for position, label in enumerate(self.embodiment.labels):
            parts.setdefault(f"r2/{label}", [position])
        terms = {}
        for name, indices in parts.items():
            some = [i for i in indices if varies[i]]
            if some:
                sums = ((v[..., some] / scale[some]).mean((1, 2)) for v in (error, spread))
                terms[name] = (next(sums), next(sums))
        return terms

    def r2(self) -> dict[str, float]:
        """Return the share of variance explained: `r2`, `r2/<group>` and `r2/<label>`.

        Over several numbers it is the mean of their R2. A group or number that does not vary has none.
        """
        return {k: float(1 - error.sum() / total.sum()) for k, (error, total) in self.r2_terms().items()}

    def huber(self, delta: float = 1.0) -> float:
        """Return the mean Huber loss of normalised actions, the reference's validation loss."""
        error = self.squared_error.double().sqrt()
        small = 0.5 * self.squared_error.double()
        return float(torch.where(error < delta, small, delta * (error - 0.5 * delta)).mean())


@dataclass(frozen=True)
class ClassEvaluation:
    """Predictions of a class head on N samples, on CPU.

    Attributes:
        class_names: Name of each class.
        logits: `[N classes]`.
        targets: int64 `[N]`.
    """

    class_names: tuple[str, ...]
    logits: Tensor
    targets: Tensor

    @property
    def predictions(self) -> Tensor:
        """Most likely class of each sample, int64 `[N]`."""
        return self.logits.argmax(-1)

    @property
    def correct(self) -> Tensor:
        """1.0 where the prediction is right, `[N]`; its mean is the micro top-1 accuracy."""
        return (self.predictions == self.targets).float()

    @property
    def macro_terms(self) -> Tensor:
        """Return `[N]` values whose mean is the macro top-1: the mean accuracy of the classes present."""
        counts = torch.bincount(self.targets, minlength=len(self.class_names))
        present = int((counts > 0).sum())
        return self.correct * len(self.targets) / (present * counts[self.targets])

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
    def macro_f1(self) -> float:
        """Mean F1 of the classes that have samples."""
        return macro_f1(self.scores)


def evaluate_action(
    head: nn.Module,
    samples: LatentBatches,
    stats: ActionStats,
    embodiment: Embodiment,
    *,
    device: str = "cpu",
) -> ActionEvaluation:
    """Evaluate an action head in float32.

    Args:
        head: Maps `Batch.inputs` to normalised actions `[b k a]`.
        samples: Targets are normalised actions.
        stats: Statistics that the targets were normalised with.
        embodiment: Layout of the actions.
        device: Where the head is.

    Raises:
        ShapeError: Head, samples, statistics and embodiment disagree about k or a, or there are no samples.
    """
    predicted = predict(head, samples, device=device)
    targets = samples.targets.float()
    if predicted.shape != targets.shape or targets.shape[-1] != embodiment.action_dim:
        raise ShapeError(
            expected=f"predictions like the targets {tuple(targets.shape)} with a = {embodiment.action_dim}",
            got=f"{tuple(predicted.shape)}",
            fix=f"Evaluate with the chunk and the embodiment the head was trained for ({embodiment.name}).",
        )
    physical = stats.denormalise(predicted.double()), stats.denormalise(targets.double())
    return ActionEvaluation(
        embodiment=embodiment,
        predictions=physical[0].float(),
        targets=physical[1].float(),
        squared_error=(predicted - targets).square(),
        squared_error_physical=(physical[0] - physical[1]).square().float(),
        rotation_error_deg={k: v.float() for k, v in embodiment.rotation_error_deg(*physical).items()},
    )


def evaluate_class(
    head: nn.Module, samples: LatentBatches, class_names: tuple[str, ...], *, device: str = "cpu"
) -> ClassEvaluation:
    """Evaluate a class head in float32.

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
    return ClassEvaluation(class_names, logits, samples.targets)


# Metric name and factor from the unit (m, rad, fraction; of joints the own one) for each kind of group.
PHYSICAL = {
    "position": ("rmse_cm", 100.0),
    "rotation": ("rmse_deg", 180 / math.pi),
    "gripper": ("rmse", 1.0),
    "joint": ("rmse", 1.0),
}


def action_estimates(evaluation: ActionEvaluation, episodes: NDArray[np.int64]) -> dict[str, Estimate]:
    """Return value and 95 % interval of every error by metric name.

    `mse`, `mse/<group>` and `mse/dim/<label>` are in units of the training standard deviation;
    `rmse_cm/<group>` is the distance of positions (all axes together), `deg/<group>` the angle between
    rotations, `rmse_cm|rmse_deg|rmse/dim/<label>` the error of one number in cm, degrees or as a fraction.

    Args:
        evaluation: Errors of N samples.
        episodes: Episode of each sample `[N]`; whole episodes are drawn.
    """
    groups = evaluation.embodiment.group_indices()
    found: dict[str, Estimate] = {}
    for name, values in evaluation.per_sample().items():
        _, _, part = name.partition("/")
        metric = name if not part or part in groups else f"mse/dim/{part}"
        found[metric] = bootstrap_mean_ci(values.numpy(), episodes)
    physical = evaluation.per_sample(physical=True)
    for group in evaluation.embodiment.groups:
        metric, factor = PHYSICAL[group.kind]
        if group.kind == "position":
            squared = physical[f"mse/{group.name}"].numpy() * len(group.indices) * factor**2
            found[f"{metric}/{group.name}"] = _root(bootstrap_mean_ci(squared, episodes))
        for label in group.labels:
            squared = physical[f"mse/{label}"].numpy() * factor**2
            found[f"{metric}/dim/{label}"] = _root(bootstrap_mean_ci(squared, episodes))
    for name, degrees in evaluation.rotation_error_deg.items():
        found[f"deg/{name}"] = bootstrap_mean_ci(degrees.mean(1).numpy(), episodes)
    return found


def _root(estimate: Estimate) -> Estimate:
    value, (low, high) = estimate
    return math.sqrt(value), (math.sqrt(low), math.sqrt(high))


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
