"""Diffusion Policy conditioned on features of an encoder."""

from __future__ import annotations

from typing import Any

import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionConditionalUnet1d, DiffusionPolicy

from lary_policy.policy.drop_in.adapter import EncoderPolicy, camera_features, with_images
from lary_policy.policy.drop_in.configuration_drop_in import LaryDiffusionConfig


class LaryDiffusionPolicy(EncoderPolicy, DiffusionPolicy):
    """LeRobot's DiffusionPolicy on an encoder; see `LaryDiffusionConfig`."""

    config_class = LaryDiffusionConfig
    name = "lary_diffusion"

    def __init__(self, config: LaryDiffusionConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.diffusion.rgb_encoder = camera_features(config)
        vectors = (config.robot_state_feature, config.env_state_feature)
        width = sum(feature.shape[0] for feature in vectors if feature is not None)
        width += config.encoder_feature_dim * len(config.image_features)
        unet = DiffusionConditionalUnet1d(config, global_cond_dim=width * config.n_obs_steps)
        compiled = config.compile_model
        self.diffusion.unet = torch.compile(unet, mode=config.compile_mode) if compiled else unet

    @staticmethod
    def _stock_config(config: LaryDiffusionConfig) -> LaryDiffusionConfig:
        config.validate_features()
        return with_images(config, side=64)
