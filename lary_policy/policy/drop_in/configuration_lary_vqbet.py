"""`--policy.type=lary_vqbet`: VQ-BeT on features of an encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.policies.vqbet.configuration_vqbet import VQBeTConfig

from lary_policy.policy.drop_in.fields import EncoderFields, images_as_they_are


@PreTrainedConfig.register_subclass("lary_vqbet")
@dataclass
class LaryVQBeTConfig(EncoderFields, VQBeTConfig):
    """LeRobot's VQBeTConfig with `encoder`; every other field means what it means there.

    Attributes:
        encoder_features: `keypoints` (spatial softmax of the feature map), `pooled` (mean of the tokens) or
            `both`, one vector a step.
        encoder_feature_dim: Width of that vector.
        normalization_mapping: Images stay in [0, 1].
        pretrained_backbone_weights: None; the ResNet is not used.
        crop_shape: None; the encoder resizes.
    """

    replaced: ClassVar[tuple[str, ...]] = (
        "vision_backbone", "pretrained_backbone_weights", "use_group_norm", "crop_shape", "crop_is_random",
    )  # fmt: skip

    encoder_features: str = "pooled"
    encoder_feature_dim: int = 512
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=partial(images_as_they_are, VQBeTConfig)
    )
    pretrained_backbone_weights: str | None = None
    crop_shape: tuple[int, int] | None = None
