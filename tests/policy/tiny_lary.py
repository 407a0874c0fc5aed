"""Small policies, features and batches for the tests of the policy `lary`."""

from __future__ import annotations

import torch
from lerobot.configs import FeatureType, PolicyFeature
from torch import Tensor

from lary_policy.policy.configuration_lary import EncoderConfig, LaryConfig

PX = 28  # two by two patches of 14
STATE, ACTION, TOP = "observation.state", "action", "observation.images.top"


def features(cameras=("top",), action_dim=7, state_dim=7, px=PX):
    inputs = {f"observation.images.{c}": PolicyFeature(FeatureType.VISUAL, (3, px, px)) for c in cameras}
    if state_dim:
        inputs[STATE] = PolicyFeature(FeatureType.STATE, (state_dim,))
    return inputs, {ACTION: PolicyFeature(FeatureType.ACTION, (action_dim,))}


def config(
    encoder="pixels", weights="auto", cameras=("top",), action_dim=7, state_dim=7, **values
) -> LaryConfig:
    inputs, outputs = features(cameras, action_dim, state_dim)
    small = {"head_width": 16, "head_blocks": 1, "pool": "mean", "chunk_size": 4, "dit_heads": 2}
    small |= {"dit_sample_steps": 5, "device": "cpu", "push_to_hub": False}
    return LaryConfig(
        encoder=EncoderConfig(name=encoder, weights=weights, image_px=PX if encoder == "pixels" else None),
        input_features=inputs, output_features=outputs, **(small | values),
    )  # fmt: skip


def batch(policy_config: LaryConfig, count=2, seed=0, *, training=False) -> dict[str, Tensor]:
    """Observations of `count` worlds, as a preprocessor hands them over; with actions for training."""
    rng = torch.Generator().manual_seed(seed)
    frames, steps = policy_config.n_obs_steps, policy_config.chunk_size
    window = (frames,) if training and frames > 1 else ()
    values = {}
    for name, feature in policy_config.input_features.items():
        shape = (count, *window, *feature.shape)
        if feature.type is FeatureType.VISUAL:
            values[name] = torch.randint(0, 256, shape, generator=rng).float() / 255
        else:
            values[name] = torch.randn(shape, generator=rng)
    if training:
        size = policy_config.action_feature.shape[0]
        values[ACTION] = torch.randn(count, steps, size, generator=rng)
        values[f"{ACTION}_is_pad"] = torch.zeros(count, steps, dtype=torch.bool)
    return values
