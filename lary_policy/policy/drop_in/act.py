"""ACT whose transformer reads the feature map of an encoder."""

from __future__ import annotations

from typing import Any

from lerobot.policies.act.modeling_act import ACTPolicy
from torch import Tensor, nn

from lary_policy.policy.drop_in.adapter import EncoderPolicy, single_frame_encoder
from lary_policy.policy.drop_in.configuration_drop_in import LaryACTConfig
from lary_policy.policy.encoder import ObservationEncoder


class LaryACTPolicy(EncoderPolicy, ACTPolicy):
    """LeRobot's ACTPolicy on an encoder; see `LaryACTConfig`.

    Raises:
        ConfigError: The encoder needs several frames, or its tokens have no grid.
    """

    config_class = LaryACTConfig
    name = "lary_act"

    def __init__(self, config: LaryACTConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        encoder = single_frame_encoder(config)
        self.model.backbone = FeatureMap(encoder)
        self.model.encoder_img_feat_input_proj = nn.Conv2d(encoder.out_channels, config.dim_model, 1)


class FeatureMap(nn.Module):
    """An encoder behind the interface of torchvision's IntermediateLayerGetter, which ACT calls."""

    def __init__(self, encoder: ObservationEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return {"feature_map": [b d h w]} of images [b 3 h w] in [0, 1]."""
        return {"feature_map": self.encoder.feature_map(images)}
