import math

import pytest
import torch
from torch import nn

from lary_policy.actions.embodiment import load_embodiment
from lary_policy.actions.statistics import ActionStats
from lary_policy.errors import ShapeError
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.heads.training.fit import predict
from lary_policy.scores.actions import evaluate_action
from lary_policy.scores.classes import evaluate_class
from lary_policy.scores.metrics import estimates

STATS = ActionStats((0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 0.5), (0.5, 2.0, 1.0, 0.1, 0.1, 0.1, 0.25), 10)


class Answers(nn.Module):
    """Returns what it is told to, in order; the first latent number is the row."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def forward(self, latents):
        return self.answers[latents[:, 0, 0, 0, 0].long()]


def rows(targets):
    count = len(targets)
    bank = torch.arange(count).float().view(count, 1, 1)
    return LatentBatches(bank, torch.arange(count)[:, None, None], targets)


def action_case(count=600):
    g = torch.Generator().manual_seed(0)
    targets = torch.randn(count, 5, 7, generator=g)
    return targets, targets + 0.3 * torch.randn(count, 5, 7, generator=g)


def test_normalised_errors_by_sample_group_and_dimension():
    targets, answers = action_case()
    result = evaluate_action(Answers(answers), rows(targets), STATS, load_embodiment("arm7"))
    squared = (answers - targets).square()
    named = result.per_sample()
    torch.testing.assert_close(result.squared_error, squared)
    torch.testing.assert_close(named["mse"], squared.mean((1, 2)))
    torch.testing.assert_close(named["mse/position"], squared[..., :3].mean((1, 2)))
    torch.testing.assert_close(named["mse/orientation"], squared[..., 3:6].mean((1, 2)))
    torch.testing.assert_close(named["mse/gripper"], squared[..., 6].mean(1))
    torch.testing.assert_close(named["mse/yaw"], squared[..., 5].mean(1))
    assert len(named) == 1 + 3 + 6  # the gripper's group and its only number are one metric


def test_physical_errors_are_scaled_by_the_statistics():
    targets, answers = action_case()
    result = evaluate_action(Answers(answers), rows(targets), STATS, load_embodiment("arm7"))
    physical = result.per_sample(physical=True)
    assert "mse" not in physical
    torch.testing.assert_close(physical["mse/y"], 4 * result.per_sample()["mse/y"])
    torch.testing.assert_close(result.predictions, STATS.denormalise(answers))
    torch.testing.assert_close(result.targets, STATS.denormalise(targets))


def test_rotation_error_is_the_angle_between_rotations_not_between_numbers():
    targets, answers = torch.zeros(2, 1, 7), torch.zeros(2, 1, 7)
    # yaw of nearly pi against nearly -pi: 0.02 rad apart; statistics scale by 0.1
    targets[0, 0, 5], answers[0, 0, 5] = (math.pi - 0.01) / 0.1, (-math.pi + 0.01) / 0.1
    answers[1, 0, 4] = math.radians(10) / 0.1
    result = evaluate_action(Answers(answers), rows(targets), STATS, load_embodiment("arm7"))
    expected = torch.tensor([[math.degrees(0.02)], [10.0]])
    torch.testing.assert_close(result.rotation_error_deg["orientation"], expected, atol=1e-3, rtol=0)
    assert float(result.squared_error_physical[0, 0, 5]) > 39


def test_class_metrics_match_a_hand_count():
    targets = torch.tensor([0, 0, 0, 0, 1, 1, 3, 3])
    chosen = torch.tensor([0, 0, 1, 3, 1, 0, 3, 3])
    logits = nn.functional.one_hot(chosen, 4).float()
    result = evaluate_class(Answers(logits), rows(targets), ("a", "b", "c", "d"))
    assert torch.equal(result.predictions, chosen)
    assert float(result.correct.mean()) == pytest.approx(5 / 8)
    # classes present: a 2/4, b 1/2, d 2/2; c never occurs
    assert estimates(result, range(8))["top1_macro"].value == pytest.approx((0.5 + 0.5 + 1.0) / 3)
    assert result.confusion.tolist() == [[2, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2]]


def test_predict_keeps_order_across_batches_and_runs_in_eval_mode():
    head = nn.Sequential(Answers(torch.arange(1300.0)[:, None]), nn.Dropout(0.5)).train()
    assert torch.equal(predict(head, rows(torch.zeros(1300, 1, 1)))[:, 0], torch.arange(1300.0))
    assert not head.training


def test_disagreeing_shapes_and_empty_splits_are_refused():
    arm7 = load_embodiment("arm7")
    targets, answers = action_case(4)
    with pytest.raises(ShapeError, match=r"\(4, 5, 7\).*got \(4, 3, 7\)"):
        evaluate_action(Answers(answers[:, :3]), rows(targets), STATS, arm7)
    with pytest.raises(ShapeError, match="a = 7"):
        evaluate_action(Answers(answers[..., :6]), rows(targets[..., :6]), STATS, arm7)
    with pytest.raises(ShapeError, match="at least one sample"):
        evaluate_action(Answers(answers), rows(targets[:0]), STATS, arm7)
    with pytest.raises(ShapeError, match="2 classes"):
        evaluate_class(Answers(torch.zeros(3, 2)), rows(torch.tensor([0, 1, 2])), ("a", "b"))
