"""`--policy.type=lary_<policy>`: configurations of LeRobot's policies with an encoder for their cameras.

LeRobot finds the policy and the processors of a type in the modules whose names have `modeling_` and
`processor_` where this one has `configuration_`.
"""

from __future__ import annotations

import copy
from dataclasses import Field, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.gaussian_actor.configuration_gaussian_actor import GaussianActorConfig
from lerobot.policies.multi_task_dit.configuration_multi_task_dit import MultiTaskDiTConfig
from lerobot.policies.vqbet.configuration_vqbet import VQBeTConfig

from lary_policy.errors import ConfigError
from lary_policy.policy.configuration_lary import EncoderConfig
from lary_policy.policy.features import dataset_action_names, dataset_embodiment, dataset_rate


@dataclass
class EncoderFields:
    """Stands before a stock configuration in the bases and gives it an encoder; images stay in [0, 1].

    Fields that are not named here mean what they mean in the stock configuration.

    Attributes:
        encoder: Which encoder sees the cameras and what of it is trained.
        embodiment: Action layout, or None; the dataset tells it. Environments of another one are refused.
        control_hz: Actions a second the policy was trained for; the dataset tells it.
        action_feature_names: Names of the actions; LeRobot fills them in from the dataset.
        action_dim: Numbers of an action, recorded when the policy is first built.
        latents: Folder of stored latents to train on, see `lary train`; None encodes frames.
    """

    # Fields of the stock configuration that only its own vision tower reads. They are refused when set, so
    # that nobody believes in a crop or a backbone that is not there.
    replaced: ClassVar[tuple[str, ...]] = ()

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    embodiment: str | None = None
    control_hz: float | None = None
    action_feature_names: list[str] | None = None
    action_dim: int | None = None
    latents: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # the stock configuration's
        mode = self.normalization_mapping.get("VISUAL")  # type: ignore[attr-defined]
        if mode != NormalizationMode.IDENTITY:
            raise ConfigError(
                expected="normalization_mapping VISUAL IDENTITY: images reach the encoder in [0, 1]",
                got=f"VISUAL {getattr(mode, 'value', mode)}",
                fix="Leave VISUAL out of it; the encoder normalises its input itself.",
            )
        for name in self.replaced:
            value, default = getattr(self, name), _field(type(self), name).default
            if value != default:
                raise ConfigError(
                    expected=f"{name}={default}, which belongs to the vision tower that the encoder replaces",
                    got=f"{name}={value}",
                    fix="Set encoder.name, encoder.image_px and the other encoder.* fields instead.",
                )

    def validate_features(self) -> None:
        """Check the features as the stock configuration does, but that cameras may differ in size and number.

        Each is resized by the encoder; the stock towers want one size, and VQ-BeT one camera.
        """
        given, images = self.input_features, set(self.image_features)  # type: ignore[has-type, attr-defined]
        try:
            for camera in sorted(images) or [None]:
                self.input_features = {k: f for k, f in given.items() if k == camera or k not in images}
                super().validate_features()  # type: ignore[misc]
        finally:
            self.input_features = given

    def why_uncached(self) -> str | None:
        """Return why frames have to be encoded at every step; None where stored latents serve."""
        from lary_policy.encoders import encoder_spec  # heavy, and `lerobot-train --help` reads this module

        if encoder_spec(self.encoder.name).latent.kind != "frame":
            return f"policy.encoder.name={self.encoder.name}: it sees several frames, which this type stacks"
        return None

    def _save_pretrained(self, save_directory: Path) -> None:
        """Save without the folder of stored latents: they belong to a run on one machine."""
        saved = copy.copy(self)
        saved.latents = None
        super(EncoderFields, saved)._save_pretrained(save_directory)  # type: ignore[misc]

    def learn_dataset(self, meta: Any) -> None:
        """Take control rate and embodiment from a dataset's metadata; None (an environment) has neither.

        Raises:
            EmbodimentError: The policy was trained for another rate or embodiment.
        """
        if meta is None:
            return
        self.embodiment = dataset_embodiment(self.embodiment, meta.features)
        self.action_feature_names = dataset_action_names(self.action_feature_names, meta.features)
        self.control_hz = dataset_rate(self.control_hz, meta)


def images_as_they_are(stock: type[PreTrainedConfig]) -> dict[str, NormalizationMode]:
    """Return the default normalization_mapping of a stock configuration with images left in [0, 1]."""
    factory: Any = _field(stock, "normalization_mapping").default_factory
    return {**factory(), "VISUAL": NormalizationMode.IDENTITY}


def _field(config: type, name: str) -> Field[Any]:
    return next(f for f in fields(config) if f.name == name)


@dataclass
class VectorFields(EncoderFields):
    """The same where the policy sees one vector a camera and step.

    Attributes:
        encoder_features: `keypoints` (spatial softmax of the feature map), `pooled` (mean of the tokens) or
            `both`.
        encoder_feature_dim: Width of the vector.
    """

    encoder_features: str = "pooled"
    encoder_feature_dim: int = 512


@PreTrainedConfig.register_subclass("lary_act")
@dataclass
class LaryACTConfig(EncoderFields, ACTConfig):
    """LeRobot's ACTConfig with `encoder`."""

    replaced: ClassVar[tuple[str, ...]] = (
        "vision_backbone", "pretrained_backbone_weights", "replace_final_stride_with_dilation",
    )  # fmt: skip

    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=partial(images_as_they_are, ACTConfig)
    )
    pretrained_backbone_weights: str | None = None


@PreTrainedConfig.register_subclass("lary_diffusion")
@dataclass
class LaryDiffusionConfig(VectorFields, DiffusionConfig):
    """LeRobot's DiffusionConfig with `encoder`."""

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


@PreTrainedConfig.register_subclass("lary_gaussian_actor")
@dataclass
class LaryGaussianActorConfig(EncoderFields, GaussianActorConfig):
    """LeRobot's GaussianActorConfig with `encoder`.

    Attributes:
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

    def why_uncached(self) -> str | None:
        """Return why frames have to be encoded at every step."""
        return f"policy.type={self.type}: its learner draws samples itself"

    @property
    def image_features(self) -> dict[str, PolicyFeature]:
        """The cameras, a dict as in every other configuration."""
        return {k: f for k, f in self.input_features.items() if f.type is FeatureType.VISUAL}


@PreTrainedConfig.register_subclass("lary_multi_task_dit")
@dataclass
class LaryMultiTaskDiTConfig(VectorFields, MultiTaskDiTConfig):
    """LeRobot's MultiTaskDiTConfig with `encoder` for the cameras; the task text stays with CLIP.

    Attributes:
        spatial_softmax_num_keypoints: Points a camera where `encoder_features` has keypoints.
        image_crop_shape: None; the encoder resizes. A crop that is set is made before the encoder.
    """

    replaced: ClassVar[tuple[str, ...]] = ("vision_encoder_name",)

    spatial_softmax_num_keypoints: int = 32
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=partial(images_as_they_are, MultiTaskDiTConfig)
    )
    image_crop_shape: tuple[int, int] | None = None

    def validate_features(self) -> None:
        """Check the features; where images are cropped or resized before the encoder, they need one size."""
        if (self.image_crop_shape, self.image_resize_shape) == (None, None):
            super().validate_features()
        else:
            MultiTaskDiTConfig.validate_features(self)

    def why_uncached(self) -> str | None:
        """Return why frames have to be encoded at every step; None where stored latents serve."""
        for name in ("image_crop_shape", "image_resize_shape"):
            if getattr(self, name) is not None:
                return f"policy.{name}={getattr(self, name)}: frames are changed before the encoder"
        return super().why_uncached()


@PreTrainedConfig.register_subclass("lary_vqbet")
@dataclass
class LaryVQBeTConfig(VectorFields, VQBeTConfig):
    """LeRobot's VQBeTConfig with `encoder`, which resizes images itself."""

    replaced: ClassVar[tuple[str, ...]] = (
        "vision_backbone", "pretrained_backbone_weights", "use_group_norm", "crop_shape", "crop_is_random",
    )  # fmt: skip

    pretrained_backbone_weights: str | None = None
    crop_shape: tuple[int, int] | None = None
