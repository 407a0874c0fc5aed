"""Errors by group and by dimension agree with each other and with plain arithmetic."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lary_policy.actions.embodiment import load_embodiment
from lary_policy.actions.statistics import ActionStats
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.scores.actions import evaluate_action
from lary_policy.scores.metrics import estimates


class Constant(nn.Module):
    """Predicts the same normalised action whatever it sees."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, latents):
        return self.value.expand(len(latents), 5, 7)


@pytest.fixture(scope="module")
def measured():
    generator = torch.Generator().manual_seed(0)
    actions = 0.1 * torch.randn(40, 5, 7, generator=generator)
    stats = ActionStats.fit(actions)
    index = torch.zeros(40, 1, 1, dtype=torch.int64)
    samples = LatentBatches(torch.zeros(1, 2, 3), index, stats.normalise(actions))
    evaluation = evaluate_action(Constant(torch.zeros(7)), samples, stats, load_embodiment("arm7"))
    return actions, estimates(evaluation, np.arange(40) // 4)


def test_predicting_the_mean_has_unit_error_in_every_dimension(measured):
    _, found = measured
    for label in ("x", "y", "z", "roll", "pitch", "yaw"):
        assert found[f"mse/dim/{label}"].value == pytest.approx(1.0, abs=1e-5)
    assert found["mse"].value == pytest.approx(1.0, abs=1e-5)


def test_physical_errors_are_in_centimetres_and_degrees(measured):
    actions, found = measured
    std = actions.double().reshape(-1, 7).std(0, correction=0)
    assert found["rmse_cm/dim/x"].value == pytest.approx(100 * float(std[0]), rel=1e-4)
    assert found["rmse_deg/dim/yaw"].value == pytest.approx(math.degrees(float(std[5])), rel=1e-4)
    assert found["rmse/dim/gripper"].value == pytest.approx(float(std[6]), rel=1e-4)


def test_the_distance_of_a_group_joins_its_axes(measured):
    _, found = measured
    axes = [found[f"rmse_cm/dim/{axis}"].value for axis in "xyz"]
    assert found["rmse_cm/position"].value == pytest.approx(math.sqrt(sum(a * a for a in axes)), rel=1e-5)


def test_every_interval_contains_its_value(measured):
    _, found = measured
    # mse, groups, other dimensions, distance, physical, angle, r2 and its groups
    assert len(found) == 1 + 3 + 6 + 1 + 7 + 1 + 4
    for one in found.values():
        assert one.ci95[0] <= one.value <= one.ci95[1]
        assert one.ci95[0] < one.ci95[1]
