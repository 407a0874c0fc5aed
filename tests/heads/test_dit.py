from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from lary_policy.errors import ConfigError, ShapeError
from lary_policy.heads.config import TrainConfig
from lary_policy.heads.dit import DiffusionExpertConfig, diffusion_objective, squared_cosine
from lary_policy.heads.files import build_head, load_head, save_head
from lary_policy.heads.objective import Batch
from lary_policy.heads.pool import PoolConfig
from lary_policy.heads.registry import build_module, head_kind
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.heads.training.fit import predict
from lary_policy.heads.training.loop import train

SMALL = DiffusionExpertConfig(width=32, depth=2, num_heads=4, sample_steps=10)


def small(seed=0, **changes):
    return build_module(SMALL, (2, 1, 4, 8), chunk=2, action_dim=3, seed=seed, **changes)


@pytest.mark.parametrize("steps", [10, 100, 500])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_reverse_process_equals_diffusers(steps, clip):
    theirs = DDPMScheduler(
        1000, beta_schedule="squaredcos_cap_v2", clip_sample=clip is not None, prediction_type="epsilon"
    )
    theirs.set_timesteps(steps)
    ours = squared_cosine(1000)
    pairs = ours.reverse_steps(steps)
    assert [t for t, _ in pairs] == theirs.timesteps.tolist()
    g = torch.Generator().manual_seed(0)
    for step, previous in (pairs[0], pairs[len(pairs) // 2], pairs[-2], pairs[-1]):
        noisy, noise = torch.randn(2, 5, 4, 3, generator=g)
        fresh = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(step))
        expected = theirs.step(noise, step, noisy, generator=torch.Generator().manual_seed(step)).prev_sample
        torch.testing.assert_close(
            ours.denoise(noisy, noise, step, previous, fresh, clip), expected, rtol=1e-4, atol=1e-4
        )


def test_untrained_head_predicts_no_noise_and_samples_repeat():
    head = small().eval()
    latents = torch.randn(3, 2, 1, 4, 8)
    noisy, steps = torch.randn(3, 2, 3), torch.tensor([0, 10, 999])
    assert torch.equal(head(latents, noisy=noisy, steps=steps), torch.zeros(3, 2, 3))
    torch.nn.init.normal_(head.fc_out.weight)
    assert torch.equal(head(latents), head(latents))
    other = head.sample(latents, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(head(latents), other)


def test_actions_depend_on_latents_and_proprioception():
    torch.manual_seed(0)
    head = small(proprio_dim=3).eval()
    torch.nn.init.normal_(head.fc_out.weight)
    latents, proprio = torch.randn(1, 2, 1, 4, 8), torch.randn(1, 3)
    base = head(latents, proprio)
    assert not torch.equal(base, head(latents + 1, proprio))
    assert not torch.equal(base, head(latents, proprio + 1))


def test_dropped_conditions_hide_the_latents_from_the_prediction():
    head = small().eval()
    torch.nn.init.normal_(head.fc_out.weight)
    noisy, steps = torch.randn(2, 2, 3), torch.tensor([5, 5])
    first, second = (
        head(torch.randn(2, 2, 1, 4, 8), noisy=noisy, steps=steps, dropped=torch.tensor([True, False]))
        for _ in range(2)
    )
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


def standard_normal_problem():
    g = torch.Generator().manual_seed(0)
    bank = torch.randn(700, 2, 8, generator=g)
    index = torch.stack([torch.arange(699), torch.arange(1, 700)], 1)[:, :, None]
    change = (bank[1:] - bank[:-1]).flatten(1)
    targets = (change @ torch.randn(16, 2, generator=g)).view(-1, 1, 2)
    targets = (targets - targets.mean((0, 1))) / targets.std((0, 1))
    return LatentBatches(bank, index[:600], targets[:600]), LatentBatches(bank, index[600:], targets[600:])


def test_d12_clipping_to_one_deviation_truncates_what_is_drawn():
    """The reference's DiT clips samples to +-1 although targets are z-scored; ours where no target is."""
    train_set, val_set = standard_normal_problem()
    scores = {}
    for clip in (1.0, 5.0):
        config = DiffusionExpertConfig(width=32, depth=1, num_heads=2, sample_steps=10, clip_sample=clip)
        head = build_module(config, (2, 1, 2, 8), chunk=1, action_dim=2, seed=0)
        settings = TrainConfig(40, 60, 3e-3, schedule="cosine", precision="float32", seed=0, select="last")
        train(head, train_set, val_set, diffusion_objective(config), settings)
        drawn = predict(head, val_set)
        scores[clip] = float((drawn - val_set.targets).square().mean())
        assert (float(drawn.abs().max()) <= 1.0) == (clip == 1.0)
    lost = float((val_set.targets - val_set.targets.clamp(-1, 1)).square().mean())
    assert scores[1.0] > 0.9 * lost
    assert scores[5.0] < 0.6 * lost


def test_training_loss_is_the_expected_noise_error_of_the_zero_prediction():
    """An untrained head predicts no noise: the loss is the mean Huber loss of unit normal numbers, 0.4213."""
    head, config = small(), SMALL
    batch = Batch(torch.randn(4000, 2, 1, 4, 8), torch.zeros(4000, 2, 3))
    x = np.linspace(-8, 8, 20001)
    huber = np.where(abs(x) < 1, 0.5 * x**2, abs(x) - 0.5)
    expected = np.trapezoid(huber * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), x)
    assert float(diffusion_objective(config).loss(head, batch).detach()) == pytest.approx(expected, rel=0.03)


def test_conditions_are_dropped_in_training_only_and_as_often_as_configured():
    seen = []

    def spy(*inputs, noisy, steps, dropped):
        seen.append(dropped)
        return torch.zeros_like(noisy)

    batch = Batch(torch.zeros(5000, 2, 1, 4, 8), torch.zeros(5000, 2, 3))
    torch.manual_seed(0)
    diffusion_objective(SMALL).loss(spy, batch)
    assert float(seen[0].float().mean()) == pytest.approx(0.1, abs=0.02)
    without = DiffusionExpertConfig(32, 2, 4, condition_dropout=0.0)
    diffusion_objective(without).loss(spy, batch)
    assert seen[1] is None


def test_saved_heads_draw_the_same_actions(tmp_path, meta):
    meta = replace(meta, model=DiffusionExpertConfig(16, 1, 2, sample_steps=5, pool=PoolConfig("project", 3)))
    head = build_head(meta).eval()
    torch.nn.init.normal_(head.fc_out.weight)
    save_head(tmp_path, head, meta)
    loaded, loaded_meta = load_head(tmp_path)
    assert loaded_meta == meta
    assert loaded_meta.label == "dit16x1-project3"
    inputs = torch.randn(2, *meta.latent_shape), torch.randn(2, 7)
    assert torch.equal(loaded(*inputs), head(*inputs))
    assert head_kind(meta.model.kind).objective(meta.model).name == "mse"


def test_wrong_sizes_and_inputs_are_refused():
    with pytest.raises(ConfigError, match="num_heads that divides an even width"):
        DiffusionExpertConfig(width=30, num_heads=4)
    with pytest.raises(ConfigError, match=r"1 <= sample_steps <= train_steps; clip_sample > 0"):
        DiffusionExpertConfig(sample_steps=2000, clip_sample=0.0)
    head, latents = small(), torch.zeros(2, 2, 1, 4, 8)
    with pytest.raises(ShapeError, match="with their diffusion steps"):
        head(latents, noisy=torch.zeros(2, 2, 3))
    with pytest.raises(ShapeError, match="no proprioception"):
        head(latents, torch.zeros(2, 3))
