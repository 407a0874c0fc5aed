"""`--policy.type=lary_diffusion`: Diffusion Policy on features of an encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

from lary_policy.policy.drop_in.fields import EncoderFields, images_as_they_are


@PreTrainedConfig.register_subclass("lary_diffusion")
@dataclass
class LaryDiffusionConfig(EncoderFields, DiffusionConfig):
    """LeRobot's DiffusionConfig with `encoder`; every other field means what it means there.

    Attributes:
        encoder_features: `keypoints` (spatial softmax of the feature map), `pooled` (mean of the tokens) or
            `both`, one vector a camera and step.
        encoder_feature_dim: Width of that vector.
        normalization_mapping: Images stay in [0, 1].
        pretrained_backbone_weights: None; the ResNet is not used.
    """

    replaced: ClassVar[tuple[str, ...]] = (
        "vision_backbone", "pretrained_backbone_weights", "use_group_norm",
        "resize_shape", "crop_ratio", "crop_shape", "crop_is_random",
    )  # fmt: skip

    encoder_features: str = "both"
    encoder_feature_dim: int = 128
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=partial(images_as_they_are, DiffusionConfig)
    )
    pretrained_backbone_weights: str | None = None
