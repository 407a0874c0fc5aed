"""Cameras of several sizes, as robots have them: each is resized by the encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from drop_in_policies import (
    DROP_IN,
    build,
    drop_in_config,
    observation,
    processors,
    step,
    tiny_encoder,
    training_batch,
)
from lerobot.configs import FeatureType, PolicyFeature

from lary_policy.errors import ConfigError

IMITATES = tuple(name for name in DROP_IN if name != "lary_gaussian_actor")
SIZES = {
    "observation.images.cam0": (32, 32),
    "observation.images.cam1": (48, 64),
    "observation.images.cam2": (40, 20),
}


def unequal(name: str, clip: Path, **changes: Any) -> Any:
    """Return a configuration of three cameras of three sizes."""
    config = drop_in_config(name, clip, cameras=3, **changes)
    for key, size in SIZES.items():
        config.input_features[key] = PolicyFeature(FeatureType.VISUAL, (3, *size))
    return config


def plain(batch: dict[str, Any], sizes: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Return a batch whose images are of one colour each: resizing changes nothing."""
    colours = dict(zip(SIZES, (0.2, 0.5, 0.8), strict=True))
    images = {k: torch.full((*batch[k].shape[:-2], *sizes[k]), colours[k]) for k in SIZES}
    return {**batch, **images}


@pytest.mark.parametrize("name", IMITATES)
@pytest.mark.parametrize("trainable", ["none", "all"])
def test_sizes_do_not_matter_to_loss_and_action(name: str, trainable: str, clip: Path) -> None:
    config = unequal(name, clip, encoder=tiny_encoder(trainable=trainable, save=None))
    policy, (before, _) = build(config), processors(config)
    batch = before(training_batch(config))
    seen = before(observation(config))
    results = []
    for sizes in (dict.fromkeys(SIZES, (32, 32)), SIZES):
        policy.reset()
        torch.manual_seed(1)
        policy.train()
        losses = [policy.forward(plain(batch, sizes))[0].item() for _ in range(2)]  # VQ-BeT finds codes first
        policy.eval()
        torch.manual_seed(1)
        actions = [policy.select_action(plain(seen, sizes)) for _ in range(4)]
        results.append((losses[-1], torch.stack(actions)))
        if name == "lary_vqbet":
            policy = build(config)  # its first step changed it
    if name != "lary_vqbet":
        assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-5)
    assert torch.isfinite(torch.tensor(results[1][0]))
    assert not any(encoder.reads_latents for encoder in policy._encoders())


@pytest.mark.parametrize("name", IMITATES)
def test_a_trained_encoder_learns_from_every_size(name: str, clip: Path) -> None:
    config = unequal(name, clip, encoder=tiny_encoder(trainable="all", save=None))
    policy = build(config)
    batch = processors(config)[0](training_batch(config))
    for key, size in SIZES.items():
        batch[key] = torch.rand(*batch[key].shape[:-2], *size)
    before = {n: p.detach().clone() for n, p in policy.named_parameters() if "backbone" in n}
    for _ in range(2):
        step(policy, batch)
    assert any(not torch.equal(p, before[n]) for n, p in policy.named_parameters() if n in before)


def test_the_actor_of_sac_sees_every_size() -> None:
    policy = build(unequal("lary_gaussian_actor", Path()))
    policy.eval()
    seen = observation(policy.config)
    found = []
    for sizes in (dict.fromkeys(SIZES, (32, 32)), SIZES):
        torch.manual_seed(0)
        found.append(policy.select_action(plain(seen, sizes)))
    torch.testing.assert_close(*found)
    with pytest.raises(ConfigError, match=r"SAC.*lerobot.rl.learner"):
        policy.forward(training_batch(policy.config))


def test_an_encoder_of_pairs_wants_one_size(clip: Path) -> None:
    encoder = tiny_encoder(name="lapa-dinov2", image_px=None)
    config = unequal("lary_diffusion", clip, n_obs_steps=2, encoder=encoder, encoder_features="pooled")
    policy = build(config)
    batch = training_batch(config)
    for key, size in SIZES.items():
        batch[key] = torch.rand(*batch[key].shape[:-2], *size)
    with pytest.raises(ConfigError, match=r"one size.*48, 64.*--policy.type=lary"):
        policy.forward(batch)


def test_crops_before_the_encoder_want_one_size(clip: Path) -> None:
    with pytest.raises(ValueError, match="shape"):
        build(unequal("lary_multi_task_dit", clip, image_resize_shape=(28, 28)))
