from dataclasses import replace

import numpy as np
import pytest
import torch

from lary_policy.actions.embodiment import load_embodiment
from lary_policy.actions.statistics import ActionStats
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.scores.actions import ActionEvaluation, evaluate_action
from lary_policy.scores.metrics import estimates


class Answer(torch.nn.Module):
    """Says the first a numbers of the latents, k times."""

    def forward(self, latents):
        return latents.flatten(1).unflatten(1, (3, 7))


def evaluated(noise=0.5, count=200, constant=None) -> ActionEvaluation:
    g = torch.Generator().manual_seed(0)
    targets = torch.randn(count, 3, 7, generator=g)
    if constant is not None:
        targets[..., constant] = 0.25
    bank = (targets + noise * torch.randn(count, 3, 7, generator=g)).view(count, 1, 21)
    samples = LatentBatches(bank, torch.arange(count).view(-1, 1, 1), targets)
    scale = ActionStats(tuple(range(7)), tuple(0.1 * (i + 1) for i in range(7)), 1)
    return evaluate_action(Answer(), samples, scale, load_embodiment("arm7"))


def r2(evaluation):
    """Return the share of variance explained, by name."""
    return {k: float(1 - error.sum() / total.sum()) for k, (error, total) in evaluation.r2_terms().items()}


def by_numpy(evaluation, index):
    true, predicted = (
        v[..., index].double().numpy().ravel() for v in (evaluation.targets, evaluation.predictions)
    )
    return 1 - ((true - predicted) ** 2).sum() / ((true - true.mean()) ** 2).sum()


def test_r2_of_numbers_groups_and_all():
    evaluation = evaluated()
    found, each = r2(evaluation), [by_numpy(evaluated(), i) for i in range(7)]
    assert [
        found[f"r2/{label}"] for label in ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    ] == pytest.approx(each)
    assert found["r2/position"] == pytest.approx(np.mean(each[:3]))
    assert found["r2/orientation"] == pytest.approx(np.mean(each[3:6]))
    assert found["r2"] == pytest.approx(np.mean(each))
    assert found["r2"] == pytest.approx(0.75, abs=0.03)


def test_perfect_and_mean_predictions():
    assert r2(evaluated(noise=0.0))["r2"] == pytest.approx(1, abs=1e-9)
    evaluation = evaluated()
    mean = evaluation.targets.double().mean((0, 1)).float().expand_as(evaluation.targets)
    assert r2(replace(evaluation, predictions=mean))["r2"] == pytest.approx(0, abs=1e-6)


def test_numbers_that_do_not_vary_have_no_r2_and_do_not_enter_the_means():
    found = r2(evaluated(constant=6))
    assert "r2/gripper" not in found
    assert found["r2"] == pytest.approx(
        np.mean([found[f"r2/{n}"] for n in ("x", "y", "z", "roll", "pitch", "yaw")])
    )


def test_terms_add_up_over_samples():
    """So that episodes can be drawn again for an interval."""
    evaluation = evaluated()
    for name, (error, total) in evaluation.r2_terms().items():
        assert error.shape == total.shape == (200,), name
    found, all_of_them = estimates(evaluation, np.arange(200) // 10), r2(evaluation)
    for name in ("r2", "r2/position", "r2/orientation", "r2/gripper"):
        assert found[name].value == pytest.approx(all_of_them[name])
        assert found[name].ci95[0] < found[name].value < found[name].ci95[1]


def test_d33_statistics_of_a_split_are_one_pass_and_those_of_the_loop():
    """The reference updates them step by step in Python, over a hundred thousand files."""
    actions = torch.randn(40, 5, 7, generator=torch.Generator().manual_seed(1)) * 3 + 100
    count, mean, second = 0, np.zeros(7), np.zeros(7)
    for step in actions.reshape(-1, 7).double().numpy():  # Welford
        count += 1
        before = step - mean
        mean += before / count
        second += before * (step - mean)
    stats = ActionStats.fit(actions)
    assert stats.count == count
    assert np.abs(np.array(stats.mean) - mean).max() < 1e-9
    assert np.abs(np.array(stats.std) - np.sqrt(second / count)).max() < 1e-9
