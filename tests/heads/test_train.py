import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from lary_policy.errors import TrainingError
from lary_policy.heads.attentive import AttentiveProbeConfig
from lary_policy.heads.config import TrainConfig
from lary_policy.heads.mlp import ActionExpertConfig
from lary_policy.heads.objective import Objective, action_objective, class_objective
from lary_policy.heads.pool import PoolConfig
from lary_policy.heads.registry import build_module
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.heads.training.epoch import learning_rate
from lary_policy.heads.training.fit import predict
from lary_policy.heads.training.loop import train

FAST = TrainConfig(epochs=25, batch_size=32, lr=3e-3, precision="float32", seed=0)


def expert(seed=0, pool=None):
    config = ActionExpertConfig(64, 1, pool or PoolConfig("project", width=8))
    return build_module(config, (2, 1, 4, 8), chunk=2, action_dim=3, seed=seed)


@pytest.mark.parametrize(
    "pool", [PoolConfig("flatten"), PoolConfig("project", width=8)], ids=lambda p: p.label
)
def test_a_planted_linear_relation_is_learned(planted, pool):
    train_set, val_set = planted
    result = train(expert(pool=pool), train_set, val_set, action_objective(), FAST)
    mean = (val_set.targets - train_set.targets.mean(0)).square().mean()
    assert result.best_score < 0.35 * float(mean)


def test_classes_are_learned_by_the_attentive_probe(classes):
    config = AttentiveProbeConfig(width=32, num_self_blocks=1, num_heads=2)
    head = build_module(config, (4, 1, 2, 8), num_classes=4)
    result = train(head, *classes, class_objective(), replace(FAST, epochs=20, balanced=True))
    assert result.best_score < 0.2


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(planted):
    def run(seed):
        head = expert(seed)
        result = train(head, *planted, action_objective(), replace(FAST, epochs=3, seed=seed))
        return result, head.state_dict()

    (first, weights), (second, again), (_, other) = run(1), run(1), run(2)
    assert all(torch.equal(weights[k], again[k]) for k in weights)
    assert [r.val_score for r in first.history] == [r.val_score for r in second.history]
    assert not torch.equal(weights["fc_in.weight"], other["fc_in.weight"])


def test_building_and_training_leave_the_global_random_state_alone(planted):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    train(expert(), *planted, action_objective(), replace(FAST, epochs=1))
    assert torch.equal(torch.random.get_rng_state(), before)


class Counter(nn.Module):
    """One weight that only ever grows: its best epoch is known."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, latents):
        return self.weight


def test_weights_of_the_best_epoch_are_restored(planted):
    seen = []

    def score(head, batch):
        return (head.weight.detach() - 0.35).abs().expand(len(batch.targets))

    objective = Objective("distance", lambda head, batch: -head(batch.latents).sum(), score)
    config = TrainConfig(10, 300, 0.1, 0.0, 0.0, "constant", precision="float32")  # one step of 0.1 an epoch
    head = Counter()
    result = train(head, *planted, objective, config, on_epoch=seen.append)
    # 0.1, 0.2, 0.3, 0.4: epochs 3 and 4 are 0.05 away, the first of them is kept but for rounding
    assert result.best_epoch in (3, 4)
    assert head.weight.item() == pytest.approx(0.1 * result.best_epoch, abs=1e-4)
    assert result.best_score == pytest.approx(0.05, abs=1e-4)
    assert [r.epoch for r in seen] == list(range(1, 11))
    assert tuple(seen) == result.history
    assert not head.training


def test_restored_weights_reproduce_the_reported_score(planted):
    head = expert()
    result = train(head, *planted, action_objective(), replace(FAST, epochs=4))
    assert result.best_score == min(r.val_score for r in result.history)
    by_hand = (predict(head, planted[1]) - planted[1].targets).square().mean()
    assert float(by_hand) == pytest.approx(result.best_score, rel=1e-5)


def test_bfloat16_learns_as_well_as_float32(planted):
    scores = {}
    for precision in ("float32", "bfloat16"):
        result = train(expert(), *planted, action_objective(), replace(FAST, precision=precision))
        assert result.precision == precision
        scores[precision] = result.best_score
    assert scores["bfloat16"] < 1.5 * scores["float32"]


def test_reference_schedules_point_by_point():
    warm = TrainConfig(lr=1e-4, warmup_fraction=0.1)
    assert [learning_rate(s, 100, warm) for s in (0, 1, 5, 10, 99)] == pytest.approx(
        [0, 1e-5, 5e-5, 1e-4, 1e-4]
    )
    cosine = TrainConfig(lr=5e-3, warmup_fraction=0.0, schedule="cosine")
    expected = [0.5 * 5e-3 * (1 + math.cos(math.pi * k / 40)) for k in range(1, 41)]
    assert [learning_rate(s, 40, cosine) for s in range(40)] == pytest.approx(expected, abs=1e-12)
    assert learning_rate(39, 40, cosine) == 0


def test_one_step_is_adamw_on_the_huber_loss(planted):
    """Against the update written out by hand."""
    train_set, val_set = planted
    head, twin = expert(), expert()
    config = TrainConfig(1, 300, 1e-2, 0.1, 0.0, "constant", precision="float32")
    train(head, train_set, val_set, action_objective(), config)
    batch = train_set.gather(torch.arange(300))
    error = twin(batch.latents) - batch.targets
    huber = torch.where(error.abs() < 1, 0.5 * error.square(), error.abs() - 0.5)
    huber.mean().backward()
    for name, value in twin.named_parameters():
        gradient = value.grad
        step = gradient / (gradient.abs() + 1e-8)  # first step: bias-corrected moments are g and g^2
        expected = value.detach() * (1 - 1e-2 * 0.1) - 1e-2 * step
        sure = gradient.abs() > 1e-6  # below, the sign of a sum of rounding errors decides
        torch.testing.assert_close(head.get_parameter(name)[sure], expected[sure], rtol=1e-3, atol=1e-5)


def test_gradient_clipping_bounds_the_norm(planted):
    norms = []

    class Watched(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = expert()
            self.inner.fc_out.weight.register_post_accumulate_grad_hook(lambda p: norms.append(p))

        def forward(self, latents):
            return 1000 * self.inner(latents)

    head = Watched()
    config = replace(FAST, epochs=1, grad_clip=0.5, batch_size=300)
    train(head, *planted, action_objective(), config)
    gradients = [p.grad for p in head.parameters()]
    assert norms
    assert float(torch.stack([g.norm() for g in gradients]).norm()) == pytest.approx(0.5, rel=1e-3)


def test_label_smoothing_and_error_rate_match_torch(classes):
    head = build_module(AttentiveProbeConfig(16, 1, 2), (4, 1, 2, 8), num_classes=4)
    batch = classes[0].gather(torch.arange(20))
    expected = nn.CrossEntropyLoss(label_smoothing=0.1)(head(batch.latents), batch.targets)
    torch.testing.assert_close(class_objective().loss(head, batch), expected)
    wrong = (head(batch.latents).argmax(-1) != batch.targets).float()
    assert torch.equal(class_objective().score(head, batch), wrong)


def test_a_diverging_loss_is_a_named_error(planted):
    class Explodes(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, latents):
            return self.weight * torch.full((len(latents), 2, 3), float("inf"))

    with pytest.raises(TrainingError, match=r"finite training loss in epoch 1.*head\.train\.lr"):
        train(Explodes(), *planted, action_objective(), FAST)


def test_an_empty_split_is_a_named_error(planted):
    train_set, val_set = planted
    empty = LatentBatches(val_set.bank, val_set.index[:0], val_set.targets[:0])
    with pytest.raises(TrainingError, match="val split"):
        train(expert(), train_set, empty, action_objective(), FAST)
    with pytest.raises(TrainingError, match="train split"):
        train(expert(), empty, val_set, action_objective(), FAST)


@pytest.mark.gpu
def test_training_on_cuda_reaches_the_score_of_the_cpu(planted):
    config = replace(FAST, device="cuda", precision="auto")
    head = expert()
    result = train(head, *planted, action_objective(), config)
    reference = train(expert(), *planted, action_objective(), FAST)
    assert result.precision == "bfloat16"
    assert result.best_score < 1.5 * reference.best_score
    assert predict(head, planted[1], device="cuda").device.type == "cpu"
