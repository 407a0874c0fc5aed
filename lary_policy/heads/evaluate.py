"""Errors of a trained head, one number a sample, ready for bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lary_policy.embodiment import ActionStats, Embodiment
from lary_policy.errors import ShapeError
from lary_policy.heads.batches import LatentBatches

_EVAL_BATCH = 512


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


@torch.inference_mode()
def predict(head: nn.Module, samples: LatentBatches, *, device: str = "cpu") -> Tensor:
    """Return the head's outputs for all samples, `[N ...]` float32 on CPU.

    Raises:
        ShapeError: There are no samples.
    """
    if len(samples) == 0:
        raise ShapeError(expected="at least one sample", got="none", fix="Check the test split.")
    head.eval()
    served = samples.to(device, torch.float32)
    return torch.cat([head(*batch.inputs).float().cpu() for batch in served.ordered(_EVAL_BATCH)])
