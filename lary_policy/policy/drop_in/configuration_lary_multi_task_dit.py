"""`--policy.type=lary_multi_task_dit`: the multi-task diffusion transformer on features of an encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.policies.multi_task_dit.configuration_multi_task_dit import MultiTaskDiTConfig

from lary_policy.policy.drop_in.fields import EncoderFields, images_as_they_are


@PreTrainedConfig.register_subclass("lary_multi_task_dit")
@dataclass
class LaryMultiTaskDiTConfig(EncoderFields, MultiTaskDiTConfig):
    """LeRobot's MultiTaskDiTConfig with `encoder` for the cameras; the task text stays with CLIP.

    Attributes:
        encoder_features: `keypoints` (spatial softmax of the feature map), `pooled` (mean of the tokens) or
            `both`, one vector a camera and step.
        encoder_feature_dim: Width of that vector.
        spatial_softmax_num_keypoints: Points a camera where `encoder_features` has keypoints.
        normalization_mapping: Images stay in [0, 1].
        image_crop_shape: None; the encoder resizes. A crop that is set is made before the encoder.
    """

    replaced: ClassVar[tuple[str, ...]] = ("vision_encoder_name",)

    encoder_features: str = "pooled"
    encoder_feature_dim: int = 512
    spatial_softmax_num_keypoints: int = 32
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=partial(images_as_they_are, MultiTaskDiTConfig)
    )
    image_crop_shape: tuple[int, int] | None = None
