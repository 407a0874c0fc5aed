"""`--policy.type=lary_gaussian_actor`: the actor of LeRobot's SAC on the feature map of an encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.policies.gaussian_actor.configuration_gaussian_actor import GaussianActorConfig

from lary_policy.policy.drop_in.fields import EncoderFields, images_as_they_are


@PreTrainedConfig.register_subclass("lary_gaussian_actor")
@dataclass
class LaryGaussianActorConfig(EncoderFields, GaussianActorConfig):
    """LeRobot's GaussianActorConfig with `encoder`; every other field means what it means there.

    Attributes:
        normalization_mapping: Images stay in [0, 1].
        vision_encoder_name: Not None, which makes SAC compute the features of a frozen encoder once a batch.
        freeze_vision_encoder: Follows `encoder.trainable`.
    """

    replaced: ClassVar[tuple[str, ...]] = ("vision_encoder_name", "image_encoder_hidden_dim")

    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=partial(images_as_they_are, GaussianActorConfig)
    )
    vision_encoder_name: str | None = "lary"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.freeze_vision_encoder = self.encoder.trainable == "none"

    @property
    def image_features(self) -> dict[str, PolicyFeature]:
        """The cameras, a dict as in every other configuration."""
        return {k: f for k, f in self.input_features.items() if f.type is FeatureType.VISUAL}
