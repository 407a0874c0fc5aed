"""The training loop of latent action models."""

import dataclasses
from pathlib import Path

import pytest
import torch

from lary_policy.encoders import Preprocess
from lary_policy.errors import ConfigError, TrainingError
from lary_policy.lam import LamConfig, LamRun, PairSampler, Recorded, lam_kind, seen_pairs, train_lam
from lary_policy.lam.trainer import rate_at

SMALL = LamConfig(
    spatial_depth=1, temporal_depth=1, attention_heads=2, head_width=8, codebook=4, dim=8, steps=12,
    batch_size=8, eval_every=6, offset=1, precision="float32", code_seq_len=16, warmup_steps=0,
    schedule="constant", lr=3e-4,
)  # fmt: skip


def footage(seed, recordings=6, frames=8):
    """Features in which a bright token moves by one of two steps."""
    generator = torch.Generator().manual_seed(seed)
    found = Recorded.of((n, t, Path(f"{n}/{t}")) for n in range(recordings) for t in range(frames))
    bank = torch.zeros(len(found.frames), 16, 12)
    for place, frame in enumerate(found.frames):
        n, t = map(int, frame.parts)
        bank[place, (t * (1 + n % 2)) % 16] = 2.0
    return found.footage(found.frames, bank + 0.01 * torch.randn(bank.shape, generator=generator), None)


def make(config=SMALL, seed=0, **changes):
    parts = [PairSampler.of(footage(s), 1, name) for s, name in ((0, "train"), (1, "held out"))]
    drawn = parts[0].draw(32, torch.Generator().manual_seed(seed))
    sample = seen_pairs(parts[0].footage, *drawn, Preprocess(), 56, "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = lam_kind(config.model).build(config, sample, False)
    return LamRun(module, *parts, Preprocess(), 56, config, seed, "cpu")


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


UNIVLA = dataclasses.replace(SMALL, model="univla", code_seq_len=2, width=8, schedule="cosine", steps=45)


@pytest.mark.parametrize("config", [SMALL, UNIVLA], ids=["laq", "univla"])
def test_an_interrupted_training_ends_with_the_same_bits(config, tmp_path):
    whole, history = train_lam(make(config))
    path = tmp_path / "training.safetensors"

    def stop(done, _):
        if done == config.steps - 5:
            raise KeyboardInterrupt

    import lary_policy.lam.trainer as trainer

    before, trainer.SAVE_EVERY_S = trainer.SAVE_EVERY_S, 0.0
    try:
        with pytest.raises(KeyboardInterrupt):
            train_lam(make(config), checkpoint=path, on_step=stop)
    finally:
        trainer.SAVE_EVERY_S = before
    resumed, again = train_lam(make(config), checkpoint=path)
    assert same(weights(whole), weights(resumed))
    plain = [dataclasses.replace(one, seconds=0) for one in history]
    assert [dataclasses.replace(one, seconds=0) for one in again] == plain


def test_it_learns_what_moves():
    config = dataclasses.replace(SMALL, steps=300, eval_every=300, lr=3e-3, codebook=8, first_weights="drawn")
    _, history = train_lam(make(config))
    assert history[-1].gain > 0.3
    assert history[-1].loss < 0.5 * train_lam(make(dataclasses.replace(config, steps=1)))[1][0].loss


def test_the_rate_rises_and_falls():
    config = dataclasses.replace(SMALL, steps=110, warmup_steps=9, lr=2.0, schedule="cosine")
    rates = [rate_at(config, step) for step in range(110)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == max(rates) == 2.0
    assert rates[9 + 101 // 2] == pytest.approx(1.0, abs=0.05)
    assert 0 < rates[-1] < 0.01
    assert {rate_at(dataclasses.replace(config, schedule="constant"), n) for n in (9, 60, 109)} == {2.0}


def test_the_average_is_that_of_ema_pytorch():
    """Its rule, from its documentation: 1 - (1 + n) ** -2/3 after n updates, first copies."""
    config = dataclasses.replace(SMALL, steps=4, eval_every=4)
    run, states = make(config), []
    name = "vq.project_in.weight"
    kept, _ = train_lam(run, on_step=lambda *_: states.append(run.module.network.state_dict()[name].clone()))
    expected = states[1]
    for count, state in ((2, states[2]), (3, states[3])):
        keep = 1 - (1 + count) ** (-2 / 3)
        expected = keep * expected + (1 - keep) * state
    torch.testing.assert_close(kept.state_dict()[name], expected)
    last, _ = train_lam(make(dataclasses.replace(config, ema=False)))
    assert torch.equal(last.state_dict()[name], states[3])


def test_seeds_decide(tmp_path):
    a, b, c = (weights(train_lam(make(seed=seed))[0]) for seed in (0, 0, 1))
    assert same(a, b)
    assert not same(a, c)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "training.safetensors"
    train_lam(make(), checkpoint=path)
    with pytest.raises(TrainingError, match="other lr"):
        train_lam(make(dataclasses.replace(SMALL, lr=1e-3)), checkpoint=path)
    path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    with pytest.raises(TrainingError, match="not what was written"):
        train_lam(make(), checkpoint=path)


def test_a_loss_that_is_no_number_ends_the_training():
    run = make()
    run.train.footage.features[3] = float("nan")
    with pytest.raises(TrainingError, match=r"finite loss.*Lower lr"):
        train_lam(run)


def test_a_collapsed_codebook_is_said(capfd):
    run = make(dataclasses.replace(SMALL, steps=1, eval_every=1))
    run.module.network.vq.codebooks.data[1:] = 1e3
    run.module.upkeep = None
    _, history = train_lam(run)
    assert history[0].used == 1
    assert "the codebook has collapsed, 1 of 4 codes used" in capfd.readouterr().err


@pytest.mark.parametrize(("config", "words"), [
    (dataclasses.replace(SMALL, codebook=16), r"at most 8 codes.*batch_size=16"),
    (dataclasses.replace(UNIVLA, codebook=1000), r"at most 16 codes.*batch_size=500"),
])  # fmt: skip
def test_more_codes_than_a_batch_has_are_refused(config, words):
    with pytest.raises(ConfigError, match=words):
        make(config)


@pytest.mark.parametrize(("change", "words"), [
    ({"model": "lap"}, "laq"), ({"target": "images"}, "pixels"), ({"codebook": 0}, "codebook >= 1"),
    ({"lr": 0.0}, "lr above 0"), ({"val_fraction": 1.0}, "below 1"), ({"offset": 0}, "offset >= 1"),
])  # fmt: skip
def test_settings_are_checked(change, words):
    from lary_policy.errors import LaryPolicyError

    with pytest.raises(LaryPolicyError, match=words):
        LamConfig(**change)
