"""What the scores of a head do not show by themselves: collapse, baselines, a number that decides the MSE."""

from __future__ import annotations

import pytest
import torch

from lary_policy.actions.embodiment import load_embodiment
from lary_policy.actions.statistics import ActionStats
from lary_policy.errors import ShapeError
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.scores.actions import ActionEvaluation, evaluate_action
from lary_policy.scores.agreement import SampleScores, paired_difference
from lary_policy.scores.classes import evaluate_class
from lary_policy.scores.intervals import bootstrap_mean_ci
from lary_policy.scores.metrics import Metric, estimates, list_metrics, metric_info, register_metric

ARM7 = load_embodiment("arm7")
STATS = ActionStats((0.1,) * 7, (0.5,) * 7, 10)


class Say(torch.nn.Module):
    """Answers what the latents hold."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, latents):
        return latents.flatten(1).unflatten(1, self.shape)


def actions(answer, targets):
    count = len(targets)
    bank = answer.expand_as(targets).reshape(count, 1, -1)
    samples = LatentBatches(bank, torch.arange(count).view(-1, 1, 1), targets)
    return evaluate_action(Say(tuple(targets.shape[1:])), samples, STATS, ARM7)


def classes(predicted, true, names=("a", "b", "c"), counts=()):
    bank = torch.nn.functional.one_hot(torch.tensor(predicted), len(names)).float()[:, None]
    samples = LatentBatches(bank, torch.arange(len(true)).view(-1, 1, 1), torch.tensor(true))
    return evaluate_class(Say((len(names),)), samples, names, train_counts=counts)


def targets(count=200):
    return torch.randn(count, 5, 7, generator=torch.Generator().manual_seed(0))


def test_a_head_that_predicts_the_mean_is_collapsed_beside_the_mean_s_own_error():
    true = targets()
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    for answer in (torch.zeros(5, 7), torch.full((5, 7), 0.05), 0.02 * noise):
        found = actions(answer, true)
        assert found.collapsed
        assert found.baseline == pytest.approx(float(true.square().mean()))
        assert "little but the mean action" in found.warnings()[-1]


def test_a_weak_head_is_not_collapsed_but_one_worse_than_the_mean_is_named():
    true = targets()
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    weak = actions(0.05 * true + 0.2 * true.roll(0, 0), true)
    assert not weak.collapsed
    assert weak.warnings() == ()
    worse = actions(noise, true)
    assert not worse.collapsed
    assert "no better than the mean action" in worse.warnings()[-1]


def test_still_targets_do_not_make_a_head_collapsed():
    assert not actions(torch.zeros(5, 7), torch.zeros(20, 5, 7)).collapsed


def test_a_number_with_over_a_third_of_the_mse_is_named():
    true = targets()
    answer = true.clone()
    answer[..., 5] += 2.0
    answer[..., :5] += 0.5
    found = actions(answer, true)
    shares = found.mse_shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert found.dominant() == {"yaw": pytest.approx(4 / (4 + 5 * 0.25))}
    assert "yaw alone makes up 76% of the MSE over 7 numbers." in found.warnings()
    assert actions(true + 0.5, true).dominant() == {}
    assert actions(true, true).dominant() == {}  # no error, no share


def test_heads_are_compared_sample_by_sample():
    true = targets(60)
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    items, recordings = [f"row {i}" for i in range(60)], [i // 6 for i in range(60)]
    good, better = (
        SampleScores.of(actions(true + scale * noise, true), items, recordings) for scale in (0.5, 0.49)
    )
    found = paired_difference(good, better)
    assert found.excludes(0)
    assert found.value == pytest.approx((0.5**2 - 0.49**2) * float(noise.square().mean()), rel=1e-4)
    first = SampleScores.of(classes([0, 1, 2], [0, 1, 1]), ["a", "b", "c"], "xyz")
    assert first.values == (1.0, 1.0, 0.0)
    with pytest.raises(ShapeError, match="mse of the same"):
        paired_difference(good, first)
    with pytest.raises(ShapeError, match="59 items of 60"):
        SampleScores.of(actions(true, true), [*items[:-1], items[0]], recordings)


def test_a_metric_is_one_registration():
    """It is then measured, shown and ranked like any other."""

    def worst(evaluation, clusters):
        return {"worst": bootstrap_mean_ci(evaluation.squared_error.amax((1, 2)), clusters)}

    register_metric(Metric("worst", "worst error", False, order=5, of=ActionEvaluation, estimate=worst))
    try:
        found = estimates(actions(torch.zeros(5, 7), targets()), range(200))
        assert found["worst"].value > found["mse"].value
        assert metric_info("worst").higher_is_better is False
    finally:
        del list_metrics()["worst"]


def test_a_head_that_names_one_class_is_collapsed_beside_the_majority():
    true = [0] * 60 + [1] * 25 + [2] * 15
    found = classes([1] * 100, true, counts=(10, 5, 1))
    assert found.collapsed
    assert found.baseline == pytest.approx(0.6)
    assert found.warnings() == (
        "The head names nearly every sample 'b': its top-1 accuracy is 25%, that of the most frequent "
        "class 60%.",
    )
    # The majority of training counts, not that of the test.
    assert classes([1] * 100, true, counts=(1, 5, 1)).baseline == pytest.approx(0.25)
    nearly = classes([1] * 98 + [0, 2], true)
    assert nearly.collapsed


def test_a_head_that_is_no_better_than_the_majority_is_named_and_a_good_one_is_not():
    true = [0] * 60 + [1] * 25 + [2] * 15
    weak = classes([0, 1] * 50, true)
    assert not weak.collapsed
    assert "no better than the most frequent class" in weak.warnings()[0]
    assert classes(true, true).warnings() == ()
    assert not classes([0] * 50, [0] * 50).collapsed  # there is one class only
    assert classes([0] * 50, [0] * 50).warnings() == ()
