from dataclasses import replace
from functools import partialmethod

import pytest
import torch
import torch.nn.functional as F

from lary_policy.errors import ConfigError, TrainingError
from lary_policy.heads.attentive import AttentiveProbeConfig
from lary_policy.heads.config import TrainConfig, load_head_config
from lary_policy.heads.files import build_head
from lary_policy.heads.objective import class_objective
from lary_policy.heads.registry import build_module
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.heads.training.epoch import REFERENCE_SWEEP, HeadStack
from lary_policy.heads.training.fit import build_stack, fit
from lary_policy.heads.training.loop import train
from lary_policy.scores.classes import evaluate_class

CONFIG = TrainConfig(
    2, 64, balanced=True, warmup_fraction=0.0, schedule="cosine", precision="float32", seed=0
)
SWEEP = replace(CONFIG, sweep=REFERENCE_SWEEP)


@pytest.fixture
def probe_meta(meta):
    return replace(
        meta,
        model=AttentiveProbeConfig(16, 1, 2),
        latent_shape=(4, 1, 2, 8),
        mode="atomic",
        target="class",
        chunk=0,
        action_dim=0,
        stats=None,
        proprio_stats=None,
        class_names=("a", "b", "c", "d"),
        token_grid=None,
    )


def few(samples, count=130):
    return LatentBatches(samples.bank, samples.index[:count], samples.targets[:count])


def test_d33_a_sweep_is_five_separate_trainings_in_one_pass(classes, probe_meta, monkeypatch):
    """Bit by bit the heads of five runs, but every batch is read once."""
    train_set, val_set = few(classes[0]), few(classes[1], 50)
    read = []
    gather = LatentBatches.gather
    monkeypatch.setattr(
        LatentBatches, "gather", lambda self, rows, *a: read.append(len(rows)) or gather(self, rows, *a)
    )
    stack = build_stack(probe_meta, 5)
    result = train(stack, train_set, val_set, class_objective(), replace(SWEEP, select="last"))
    assert sum(read) == 2 * (130 + 50)
    for i, (lr, decay) in enumerate(REFERENCE_SWEEP):
        head = build_head(probe_meta, seed=probe_meta.seed + (i << 20))
        own = train(
            head,
            train_set,
            val_set,
            class_objective(),
            replace(CONFIG, lr=lr, weight_decay=decay, select="last"),
        )
        twin = stack.heads[i].state_dict()
        assert all(torch.equal(value, twin[name]) for name, value in head.state_dict().items())
        assert [r.member_scores[i] for r in result.history] == [r.val_score for r in own.history]
    scores = result.history[-1].member_scores
    assert (result.best_member, result.best_score) == (scores.index(min(scores)), min(scores))
    assert result.member_lr == REFERENCE_SWEEP


def test_fit_returns_the_head_that_is_best_on_val(classes, probe_meta):
    head, result = fit(probe_meta, *classes, replace(SWEEP, epochs=3))
    evaluation = evaluate_class(head, classes[1], probe_meta.class_names)
    assert float(1 - evaluation.correct.mean()) == pytest.approx(result.best_score)
    assert result.best_score == min(s for r in result.history for s in r.member_scores)
    assert result.num_params == sum(p.numel() for p in head.parameters())
    assert not head.training


def test_fit_without_a_sweep_is_build_and_train(classes, probe_meta):
    head, result = fit(probe_meta, *classes, CONFIG)
    twin = build_head(probe_meta)
    assert train(twin, *classes, class_objective(), CONFIG).best_score == result.best_score
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), twin.parameters(), strict=True))


def test_a_head_that_diverges_is_left_out_and_does_not_disturb_the_others(classes):
    class Exploding(torch.nn.Module):
        def __init__(self, inner, when):
            super().__init__()
            self.inner, self.when, self.calls = inner, when, 0

        def forward(self, latents):
            self.calls += self.training
            logits = self.inner(latents)
            return logits * float("nan") if self.training and self.calls == self.when else logits

    def build(when):
        config = AttentiveProbeConfig(16, 1, 2)
        heads = [build_module(config, (4, 1, 2, 8), num_classes=4, seed=s) for s in (0, 1)]
        return HeadStack([heads[0], Exploding(heads[1], when)])

    train_set, val_set = few(classes[0]), few(classes[1], 50)
    config = replace(CONFIG, sweep=((1e-3, 0.0), (1e-3, 0.0)), select="last")
    objective = class_objective()
    healthy, broken = build(0), build(2)
    train(healthy, train_set, val_set, objective, config)
    result = train(broken, train_set, val_set, objective, config)
    assert result.skipped == (0, 1)
    pairs = zip(healthy.heads[0].parameters(), broken.heads[0].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert all(bool(p.isfinite().all()) for p in broken.parameters())
    assert not torch.equal(healthy.heads[1].inner.linear.bias, broken.heads[1].inner.linear.bias)


def test_a_sweep_in_which_all_heads_diverge_is_a_named_error(classes, probe_meta):
    with pytest.raises(TrainingError, match="finite"):
        fit(probe_meta, *classes, replace(SWEEP, sweep=((1e30, 0.0), (1e30, 0.0))))


def test_heads_and_rates_must_match_in_number(classes, probe_meta):
    with pytest.raises(ConfigError, match="each of 1 heads; got 5"):
        train(build_head(probe_meta), *classes, class_objective(), SWEEP)
    with pytest.raises(ConfigError, match=r"sweep of pairs"):
        replace(CONFIG, sweep=((1e-3,),))
    with pytest.raises(ConfigError, match=r"sweep of pairs"):
        replace(CONFIG, sweep=((0.0, 1e-3),))


def test_the_reference_sweep_is_a_configuration():
    config = load_head_config("attentive-sweep")
    assert config.model == AttentiveProbeConfig()
    assert config.train == TrainConfig(
        20,
        256,
        warmup_fraction=0.0,
        schedule="cosine",
        balanced=True,
        seed=0,
        precision="bfloat16",
        val_precision="float32",
        select="last",
        sweep=REFERENCE_SWEEP,
    )


def test_d7_accuracies_are_selected_on_val_and_reported_on_other_samples(probe_meta):
    """On labels without meaning the best of five heads and ten epochs looks clever, on val only."""
    g = torch.Generator().manual_seed(0)
    bank, index = torch.randn(1060, 2, 8, generator=g), torch.arange(1060).view(-1, 1, 1)
    labels = torch.randint(0, 2, (1060,), generator=g)
    train_set, val_set, test_set = (
        LatentBatches(bank, index[a:b], labels[a:b]) for a, b in ((0, 30), (30, 60), (60, 1060))
    )
    meta = replace(probe_meta, latent_shape=(1, 1, 2, 8), class_names=("a", "b"))
    head, result = fit(meta, train_set, val_set, replace(SWEEP, epochs=10, batch_size=30))
    accuracy = float(evaluate_class(head, test_set, meta.class_names).correct.mean())
    assert 1 - result.best_score > 0.6
    assert accuracy == pytest.approx(0.5, abs=0.05)


def test_d15_scores_on_val_are_computed_without_a_graph(classes, probe_meta):
    """The reference runs validation with autograd on, and keeps every activation."""
    seen = []

    def score(head, batch):
        logits = head(*batch.inputs)
        seen.append((torch.is_grad_enabled(), logits.requires_grad))
        return F.cross_entropy(logits, batch.targets, reduction="none")

    objective = replace(class_objective(), score=score)
    fit(probe_meta, *classes, replace(CONFIG, epochs=1), objective=objective)
    assert seen
    assert not any(grad or graph for grad, graph in seen)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_sweep_on_cuda_reaches_the_scores_of_the_cpu(classes, probe_meta, precision):
    config = replace(SWEEP, epochs=6, sweep=((3e-3, 0.01), (1e-3, 0.1)), select="last")
    _, reference = fit(probe_meta, *classes, config)
    head, result = fit(probe_meta, *classes, replace(config, device="cuda", precision=precision))
    assert result.best_score == pytest.approx(reference.best_score, abs=0.1)
    assert result.skipped == (0, 0)
    assert next(head.parameters()).is_cuda


@pytest.mark.gpu
@pytest.mark.parametrize(("tokens", "resident"), [(1, True), (2, True), (16, True), (35, True), (35, False)])
def test_recorded_steps_on_cuda_are_the_steps_they_were_recorded_from(
    probe_meta, tokens, resident, monkeypatch
):
    """With a last batch of another size, micro batches, clipping, and a rate that falls in every step.

    Where latents do not fit on the device, threads move the next batches there during the recording.
    """
    if not resident:
        monkeypatch.setattr(LatentBatches, "to", partialmethod(LatentBatches.to, limit_bytes=0))
    g = torch.Generator().manual_seed(0)
    bank, labels = torch.randn(300, tokens, 8, generator=g), torch.randint(0, 4, (150,), generator=g)
    samples = LatentBatches(bank, torch.arange(300).view(150, 2, 1), labels)
    meta = replace(probe_meta, latent_shape=(2, 1, tokens, 8))
    config = replace(
        SWEEP, epochs=4, batch_size=40, micro_batch=20, grad_clip=0.5, device="cuda", select="last"
    )
    results = []
    for recordable in (True, False):
        objective = replace(class_objective(), recordable=recordable)
        results.append(fit(meta, samples, samples, config, objective=objective))
    (one, first), (other, second) = results
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], msg=name)
    losses = [[r.train_loss for r in result.history] for result in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_head_that_diverges_for_good_is_not_chosen_and_does_not_disturb_the_others(
    classes, probe_meta, device
):
    """Not even where its constant answer happens to be right most often."""
    calm, still, wild = (1e-3, 0.0), (1e-9, 0.0), (1e30, 0.0)
    config = replace(CONFIG, epochs=4, batch_size=32, device=device, select="last")
    healthy, beside = (
        fit(probe_meta, *classes, replace(config, sweep=(calm, other)))[1] for other in (calm, wild)
    )
    assert beside.best_member == beside.skipped[0] == 0 < beside.skipped[1]
    ours, theirs = ([r.member_scores[0] for r in result.history] for result in (beside, healthy))
    assert ours == pytest.approx(theirs, abs=0.0 if device == "cpu" else 0.02)
    train_set, val_set = (replace(part, targets=torch.zeros_like(part.targets)) for part in classes)
    _, guessed = fit(probe_meta, train_set, val_set, replace(config, sweep=(still, wild)))
    assert guessed.history[-1].member_scores[1] == 0 < guessed.history[-1].member_scores[0]
    assert guessed.best_member == 0


@pytest.mark.gpu
def test_a_step_that_waits_for_the_device_is_a_named_error(classes, probe_meta):
    def loss(head, batch):
        return F.cross_entropy(head(*batch.inputs), batch.targets) * float(batch.latents.sum() != 0)

    objective = replace(class_objective(), loss=loss)
    config = replace(CONFIG, epochs=4, batch_size=16, device="cuda")
    with pytest.raises(TrainingError, match="recordable=False"):
        fit(probe_meta, *classes, config, objective=objective)
