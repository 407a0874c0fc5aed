"""Encoders of pairs and clips see the history of a policy's observations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from drop_in_policies import (
    ACTION_DIM,
    build,
    drop_in_config,
    observation,
    step,
    tiny_encoder,
    training_batch,
)

from lary_policy.errors import ConfigError
from lary_policy.policy.drop_in.adapter import CameraFeatures, build_encoder

MOVING = {
    "pair": tiny_encoder(name="lapa", image_px=None),
    "clip": tiny_encoder(name="vjepa2-large", image_px=None),
}


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("cameras", [1, 2])
def test_features_are_those_of_each_cameras_own_history(kind: str, cameras: int) -> None:
    config = drop_in_config(
        "lary_diffusion", cameras=cameras, encoder=MOVING[kind], encoder_features="pooled"
    )
    encoder = build_encoder(config)
    assert encoder.kind == kind
    features = CameraFeatures(encoder, config, cameras)
    frames = torch.rand(2, config.n_obs_steps, cameras, 3, 32, 32)
    folded = features(frames.flatten(0, 2)).unflatten(0, (2, config.n_obs_steps, cameras))
    for camera in range(cameras):
        latents = encoder(frames[:, :, camera])
        expected = features.out(features.norm(latents[:, -1].mean(1)))
        torch.testing.assert_close(folded[:, -1, camera], expected)
    backwards = features(frames.flip(1).flatten(0, 2))
    assert not torch.allclose(backwards, folded.flatten(0, 2))


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("name", ["lary_diffusion", "lary_vqbet", "lary_multi_task_dit"])
def test_policies_with_history_train_and_act(name: str, kind: str, clip: Path) -> None:
    policy = build(drop_in_config(name, clip, encoder=MOVING[kind], encoder_features="pooled"))
    batch = training_batch(policy.config)
    tokens = torch.zeros(2, 8, dtype=torch.long)
    text = {"observation.language.tokens": tokens, "observation.language.attention_mask": tokens.bool()}
    step(policy, {**batch, **text})
    layer = next(m for m in policy.modules() if isinstance(m, CameraFeatures)).out
    assert layer.weight.grad.abs().sum() > 0
    policy.eval()
    for seed in range(3):
        assert policy.select_action({**observation(policy.config, seed=seed), **text}).shape == (
            2,
            ACTION_DIM,
        )


@pytest.mark.parametrize("name", ["lary_act", "lary_gaussian_actor"])
def test_policies_of_one_frame_refuse_them(name: str) -> None:
    with pytest.raises(ConfigError, match=r"single frames.*'lapa' of kind pair.*lary_diffusion"):
        build(drop_in_config(name, encoder=MOVING["pair"]))


def test_a_history_of_one_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"n_obs_steps >= 2 for 'vjepa2-large' of kind clip; got n_obs_steps=1"
    ):
        build(drop_in_config("lary_diffusion", encoder=MOVING["clip"], n_obs_steps=1))


def test_separate_and_shared_cameras_see_the_same() -> None:
    shared = drop_in_config("lary_diffusion", cameras=2, use_separate_rgb_encoder_per_camera=False)
    separate = drop_in_config("lary_diffusion", cameras=2, use_separate_rgb_encoder_per_camera=True)
    one, many = build(shared).diffusion, build(separate).diffusion
    for camera in many.rgb_encoder:
        camera.load_state_dict(one.rgb_encoder.state_dict())
    batch = training_batch(shared)
    images = torch.stack([batch[k] for k in shared.image_features], dim=-4)
    values = {"observation.state": batch["observation.state"], "observation.images": images}
    torch.testing.assert_close(
        one._prepare_global_conditioning(values), many._prepare_global_conditioning(values)
    )
