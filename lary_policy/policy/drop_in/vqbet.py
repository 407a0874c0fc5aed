"""VQ-BeT whose observation tokens come from an encoder."""

from __future__ import annotations

from typing import Any

from lerobot.policies.vqbet.modeling_vqbet import MLP, VQBeTPolicy

from lary_policy.policy.drop_in.adapter import EncoderPolicy, camera_features, with_images
from lary_policy.policy.drop_in.configuration_drop_in import LaryVQBeTConfig


class LaryVQBeTPolicy(EncoderPolicy, VQBeTPolicy):
    """LeRobot's VQBeTPolicy on an encoder; see `LaryVQBeTConfig`. It needs a state, as there."""

    config_class = LaryVQBeTConfig
    name = "lary_vqbet"

    def __init__(self, config: LaryVQBeTConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.vqbet.rgb_encoder = camera_features(config)
        self.vqbet.rgb_feature_projector = MLP(config.encoder_feature_dim, [config.gpt_input_dim])

    @staticmethod
    def _stock_config(config: LaryVQBeTConfig) -> LaryVQBeTConfig:
        config.validate_features()
        return with_images(config, side=64)
