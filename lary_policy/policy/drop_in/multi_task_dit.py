"""The multi-task diffusion transformer with an encoder for its cameras and CLIP for its text."""

from __future__ import annotations

from typing import Any

from lerobot.policies.multi_task_dit.modeling_multi_task_dit import DiffusionTransformer, MultiTaskDiTPolicy
from torch import nn

from lary_policy.policy.drop_in.adapter import EncoderPolicy, camera_features, with_images
from lary_policy.policy.drop_in.configuration_drop_in import LaryMultiTaskDiTConfig


class LaryMultiTaskDiTPolicy(EncoderPolicy, MultiTaskDiTPolicy):
    """LeRobot's MultiTaskDiTPolicy on an encoder; see `LaryMultiTaskDiTConfig`.

    The stock policy is built without cameras first, so that no CLIP vision tower is looked for.
    """

    config_class = LaryMultiTaskDiTConfig
    name = "lary_multi_task_dit"

    def __init__(self, config: LaryMultiTaskDiTConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        observations, cameras = self.observation_encoder, camera_features(config)
        observations.camera_names = list(config.image_features)
        observations.num_cameras = len(observations.camera_names)
        separate = isinstance(cameras, nn.ModuleList)
        observations.vision_encoders = cameras if separate else None
        observations.vision_encoder = None if separate else cameras
        observations._setup_vector_output()
        self.noise_predictor = DiffusionTransformer(config, conditioning_dim=observations.conditioning_dim)
        self.reset()

    @staticmethod
    def _stock_config(config: LaryMultiTaskDiTConfig) -> LaryMultiTaskDiTConfig:
        config.validate_features()
        return with_images(config)

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Return the fresh layers, and what is trained of the encoders at the rate of a vision tower."""
        trained = {n: p for n, p in self.named_parameters() if p.requires_grad}
        own = {n for n in trained if ".encoder.backbone." in n and "observation_encoder.vision_encoder" in n}
        rate = self.config.optimizer_lr * self.config.vision_encoder_lr_multiplier
        return [
            {"params": [p for n, p in trained.items() if n not in own]},
            {"params": [p for n, p in trained.items() if n in own], "lr": rate},
        ]
