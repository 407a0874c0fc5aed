"""Errors of an action head with intervals: total, by group and by dimension, normalised and physical."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lary_policy.heads import ActionEvaluation
from lary_policy.report.metrics import bootstrap_mean_ci

Estimate = tuple[float, tuple[float, float]]

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
