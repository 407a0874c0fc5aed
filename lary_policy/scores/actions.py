"""Errors of a trained action head, one number a sample, and the metrics made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from lary_policy.actions import Embodiment
from lary_policy.errors import ShapeError
from lary_policy.heads.training import LatentBatches, predict
from lary_policy.scores.intervals import Estimate, bootstrap_mean_ci, bootstrap_ratio_ci
from lary_policy.scores.metrics import Metric, register_metric

_CONSTANT_VARIANCE = 1e-12  # physical units squared: a micrometre or microradian is rounding
# In variance, a head that only knows the mean moves by less than a hundredth of what its targets do and
# gains less than that on the mean; the weakest heads that know anything gain several hundredths.
_COLLAPSED = 0.01


class Denormaliser(Protocol):
    """Statistics that targets were normalised with."""

    def denormalise(self, actions: Tensor) -> Tensor:
        """Return `[N k a]` in physical units."""
        ...


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
        baseline: MSE of always predicting the mean of the training split.
        collapsed: Whether the head does little else.
    """

    embodiment: Embodiment
    predictions: Tensor
    targets: Tensor
    squared_error: Tensor
    squared_error_physical: Tensor
    rotation_error_deg: dict[str, Tensor]
    baseline: float = math.nan
    collapsed: bool = False

    @property
    def by_sample(self) -> tuple[str, Tensor]:
        """Name and values `[N]` of the metric by which heads are compared sample by sample."""
        return "mse", self.squared_error.mean((1, 2))

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

    def mse_shares(self) -> dict[str, float]:
        """Return what part of the MSE each number of the action makes up, by label; they sum to 1."""
        by_dim = self.squared_error.double().mean((0, 1))
        total = float(by_dim.sum()) or 1.0  # without errors no number has a part in them
        return dict(zip(self.embodiment.labels, (by_dim / total).tolist(), strict=True))

    def dominant(self, over: float = 1 / 3) -> dict[str, float]:
        """Return the numbers of the action that make up more than a part of the MSE, largest first."""
        shares = self.mse_shares()
        over = max(over, 1.5 / len(shares))  # of few numbers an even share is already as large
        found = {label: share for label, share in shares.items() if share > over}
        return dict(sorted(found.items(), key=lambda one: -one[1]))

    def warnings(self) -> tuple[str, ...]:
        """Return what a reader of the scores must know, one sentence each."""
        mse = float(self.squared_error.double().mean())
        found = [
            f"{label} alone makes up {share:.0%} of the MSE over {len(self.embodiment.labels)} numbers."
            for label, share in self.dominant().items()
        ]
        if self.collapsed:
            found.append(
                f"The head predicts little but the mean action: its MSE is {mse:.3g}, that of the training "
                f"mean {self.baseline:.3g}."
            )
        elif mse >= self.baseline:
            found.append(
                f"The head is no better than the mean action: its MSE is {mse:.3g}, that of the training "
                f"mean {self.baseline:.3g}."
            )
        return tuple(found)


def evaluate_action(
    head: nn.Module,
    samples: LatentBatches,
    stats: Denormaliser,
    embodiment: Embodiment,
    *,
    targets: Tensor | None = None,
    device: str = "cpu",
) -> ActionEvaluation:
    """Evaluate an action head in float32.

    Args:
        head: Maps `Batch.inputs` to normalised actions `[b k a]`.
        samples: Targets are normalised actions.
        stats: What undoes their normalisation: `ActionStats`, or `Scaling.of_rows` where robots differ.
        embodiment: Layout of the actions.
        targets: Targets in physical units `[N k a]`; None denormalises those of the samples.
        device: Where the head is.

    Raises:
        ShapeError: Head, samples, statistics and embodiment disagree about k or a, or there are no samples.
    """
    predicted = predict(head, samples, device=device)
    normalised = samples.targets.float()
    if predicted.shape != normalised.shape or normalised.shape[-1] != embodiment.action_dim:
        raise ShapeError(
            expected=f"predictions like the targets {tuple(normalised.shape)} with a = "
            f"{embodiment.action_dim}",
            got=f"{tuple(predicted.shape)}",
            fix=f"Evaluate with the chunk and the embodiment the head was trained for ({embodiment.name}).",
        )
    true = stats.denormalise(normalised.double()) if targets is None else targets.double()
    physical = stats.denormalise(predicted.double()), true
    error, baseline = (predicted - normalised).square(), normalised.square()  # the training mean is 0
    return ActionEvaluation(
        embodiment=embodiment,
        predictions=physical[0].float(),
        targets=physical[1].float(),
        squared_error=error,
        squared_error_physical=(physical[0] - physical[1]).square().float(),
        rotation_error_deg={k: v.float() for k, v in embodiment.rotation_error_deg(*physical).items()},
        baseline=float(baseline.double().mean()),
        collapsed=_collapsed(predicted.double(), normalised.double()),
    )


def _collapsed(predicted: Tensor, true: Tensor) -> bool:
    """Return whether predictions `[N k a]` hardly differ between samples whose targets do."""
    moves, should = (float(v.var(0, correction=0).mean()) for v in (predicted, true))
    gained = 1 - float((predicted - true).square().mean()) / max(float(true.square().mean()), 1e-30)
    return moves < _COLLAPSED * should and gained < _COLLAPSED


def _mse(evaluation: ActionEvaluation, episodes: ArrayLike) -> dict[str, Estimate]:
    """`mse`, `mse/<group>` and `mse/dim/<label>`, in units of the training standard deviation."""
    groups, found = evaluation.embodiment.group_indices(), {}
    for name, values in evaluation.per_sample().items():
        _, _, part = name.partition("/")
        metric = name if not part or part in groups else f"mse/dim/{part}"
        found[metric] = bootstrap_mean_ci(values.numpy(), episodes)
    return found


# Metric name and factor from the unit (m, rad, fraction; of joints the own one) for each kind of group.
_PHYSICAL = {
    "position": ("rmse_cm", 100.0),
    "rotation": ("rmse_deg", 180 / math.pi),
    "gripper": ("rmse", 1.0),
    "joint": ("rmse", 1.0),
}


def _rmse(metric: str, evaluation: ActionEvaluation, episodes: ArrayLike) -> dict[str, Estimate]:
    """`<metric>/<group>`, the distance of positions (all axes together), and `<metric>/dim/<label>`."""
    physical, found = evaluation.per_sample(physical=True), {}
    for group in evaluation.embodiment.groups:
        name, factor = _PHYSICAL[group.kind]
        if name != metric:
            continue
        if group.kind == "position":
            squared = physical[f"mse/{group.name}"].numpy() * len(group.indices) * factor**2
            found[f"{metric}/{group.name}"] = bootstrap_mean_ci(squared, episodes).map(math.sqrt)
        for label in group.labels:
            squared = physical[f"mse/{label}"].numpy() * factor**2
            found[f"{metric}/dim/{label}"] = bootstrap_mean_ci(squared, episodes).map(math.sqrt)
    return found


def _degrees(evaluation: ActionEvaluation, episodes: ArrayLike) -> dict[str, Estimate]:
    """`deg/<group>`, the angle between rotations."""
    return {
        f"deg/{name}": bootstrap_mean_ci(degrees.mean(1).numpy(), episodes)
        for name, degrees in evaluation.rotation_error_deg.items()
    }


def _r2(evaluation: ActionEvaluation, episodes: ArrayLike) -> dict[str, Estimate]:
    """`r2` and `r2/<group>`."""
    groups, found = evaluation.embodiment.group_indices(), {}
    for name, (error, total) in evaluation.r2_terms().items():
        if name == "r2" or name.removeprefix("r2/") in groups:
            ratio = bootstrap_ratio_ci(error.numpy(), total.numpy(), episodes)
            found[name] = ratio.map(lambda part: 1 - part)
    return found


for _metric in (
    Metric("mse", "MSE", False, order=0, of=ActionEvaluation, estimate=_mse),
    Metric("r2", "explained variance R²", True, order=8, of=ActionEvaluation, estimate=_r2),
    Metric("deg", "angle error", False, unit="degrees", order=11, of=ActionEvaluation, estimate=_degrees),
):
    register_metric(_metric)
for _name, _unit, _order in (("rmse_cm", "cm", 10), ("rmse_deg", "degrees", 12), ("rmse", "fraction", 13)):
    _measure = partial(_rmse, _name)
    register_metric(
        Metric(_name, "RMS error", False, unit=_unit, order=_order, of=ActionEvaluation, estimate=_measure)
    )
