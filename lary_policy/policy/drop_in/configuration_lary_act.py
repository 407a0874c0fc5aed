"""`--policy.type=lary_act`: ACT on the feature map of an encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.policies.act.configuration_act import ACTConfig

from lary_policy.policy.drop_in.fields import EncoderFields, images_as_they_are


@PreTrainedConfig.register_subclass("lary_act")
@dataclass
class LaryACTConfig(EncoderFields, ACTConfig):
    """LeRobot's ACTConfig with `encoder`; every other field means what it means there.

    Attributes:
        normalization_mapping: Images stay in [0, 1].
        pretrained_backbone_weights: None; the ResNet is not used.
    """

    replaced: ClassVar[tuple[str, ...]] = (
        "vision_backbone", "pretrained_backbone_weights", "replace_final_stride_with_dilation",
    )  # fmt: skip

    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=partial(images_as_they_are, ACTConfig)
    )
    pretrained_backbone_weights: str | None = None
