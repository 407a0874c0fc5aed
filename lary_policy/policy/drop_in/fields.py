"""What the configurations of all drop-in types share: the encoder's fields and what they refuse."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from lerobot.configs import NormalizationMode, PreTrainedConfig

from lary_policy.errors import ConfigError, EmbodimentError
from lary_policy.policy.encoder_config import EncoderConfig
from lary_policy.policy.features import dataset_embodiment


@dataclass
class EncoderFields:
    """Stands before a stock configuration in the bases and gives it an encoder.

    Attributes:
        encoder: Which encoder sees the cameras and what of it is trained.
        embodiment: Action layout, or None; the dataset tells it. Environments of another one are refused.
        control_hz: Actions a second the policy was trained for; the dataset tells it.
        action_feature_names: Names of the actions; LeRobot fills them in from the dataset.
        action_dim: Numbers of an action, recorded when the policy is first built.
    """

    # Fields of the stock configuration that only its own vision tower reads. They are refused when set, so
    # that nobody believes in a crop or a backbone that is not there.
    replaced: ClassVar[tuple[str, ...]] = ()

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    embodiment: str | None = None
    control_hz: float | None = None
    action_feature_names: list[str] | None = None
    action_dim: int | None = None

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
            value, default = getattr(self, name), _default(type(self), name)
            if value != default:
                raise ConfigError(
                    expected=f"{name}={default}, which belongs to the vision tower that the encoder replaces",
                    got=f"{name}={value}",
                    fix="Set encoder.name, encoder.image_px and the other encoder.* fields instead.",
                )

    def learn_dataset(self, meta: Any) -> None:
        """Take control rate and embodiment from a dataset's metadata; None (an environment) has neither.

        Raises:
            EmbodimentError: The policy was trained for another rate or embodiment.
        """
        if meta is None:
            return
        self.embodiment = dataset_embodiment(self.embodiment, meta.features)
        if self.control_hz not in (None, float(meta.fps)):
            raise EmbodimentError(
                expected=f"a dataset of control_hz {self.control_hz}, which the policy was trained for",
                got=f"control_hz {float(meta.fps)}",
                fix="Train a new policy for this dataset, or choose another one.",
            )
        self.control_hz = float(meta.fps)


def images_as_they_are(stock: type[PreTrainedConfig]) -> dict[str, NormalizationMode]:
    """Return the default normalization_mapping of a stock configuration with images left in [0, 1]."""
    factory: Any = next(f.default_factory for f in fields(stock) if f.name == "normalization_mapping")
    return {**factory(), "VISUAL": NormalizationMode.IDENTITY}


def _default(config: type, name: str) -> Any:
    return next(f.default for f in fields(config) if f.name == name)
