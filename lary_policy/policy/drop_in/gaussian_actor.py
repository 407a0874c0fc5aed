"""The actor of SAC whose cameras are seen by an encoder."""

from __future__ import annotations

from typing import Any

from lerobot.policies.gaussian_actor.modeling_gaussian_actor import (
    GaussianActorObservationEncoder,
    GaussianActorPolicy,
    SpatialLearnedEmbeddings,
)
from lerobot.utils.constants import ACTION
from torch import Tensor, nn

from lary_policy.errors import ConfigError
from lary_policy.policy.drop_in.adapter import EncoderPolicy, single_frame_encoder, with_images
from lary_policy.policy.drop_in.configuration_drop_in import LaryGaussianActorConfig
from lary_policy.policy.encoder import ObservationEncoder


class LaryGaussianActorPolicy(EncoderPolicy, GaussianActorPolicy):
    """LeRobot's GaussianActorPolicy on an encoder; see `LaryGaussianActorConfig`.

    A frozen encoder belongs to the policy alone and is shared by actor and critics: SAC's moving average of
    its critics, w * 0.005 + w * 0.995, would otherwise rewrite the frozen weights with rounding errors. A
    trained one belongs to each observation encoder.

    Attributes:
        image_encoder: The frozen encoder, where it is frozen.

    Raises:
        ConfigError: The encoder needs several frames, or its tokens have no grid.
    """

    config_class = LaryGaussianActorConfig
    name = "lary_gaussian_actor"

    @staticmethod
    def _require_state(config: LaryGaussianActorConfig) -> None:
        """Nothing to require: this actor acts on images alone, too."""

    def forward(self, batch: dict[str, Any]) -> Any:
        """Return actions, their log-probabilities and means of the states that SAC's learner gives.

        Raises:
            ConfigError: The batch is one of demonstrations: `lerobot-train` has no loss for this policy.
        """
        if ACTION in batch and "state" not in batch:
            raise ConfigError(
                expected="LeRobot's SAC learner, which gives states and rewards, for lary_gaussian_actor",
                got="a batch of demonstrations, as lerobot-train gives it",
                fix="Run `python -m lerobot.rl.learner`, or imitate with --policy.type=lary_act.",
            )
        return super().forward(batch)

    def _init_encoders(self) -> None:
        self.shared_encoder = self.config.shared_encoder
        if self.config.encoder.trainable == "none":
            self.image_encoder = single_frame_encoder(self.config)
        self.encoder_critic = self._observation_layers()
        self.encoder_actor = self.encoder_critic if self.shared_encoder else self._observation_layers()

    def _observation_layers(self) -> GaussianActorObservationEncoder:
        """Return the stock encoder of states, with spatial embeddings of the feature map for each camera."""
        layers = _SeparateCameras(with_images(self.config))
        encoder = getattr(self, "image_encoder", None)
        if encoder is None:
            layers.vision = encoder = single_frame_encoder(self.config)
        _see(layers, self.config, encoder)
        return layers


class _SeparateCameras(GaussianActorObservationEncoder):
    """The stock layers, which stack the images of all cameras, where these may differ in size."""

    def get_cached_image_features(self, obs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the feature map `[b d h w]` of each camera."""
        if len({obs[key].shape for key in self.image_keys}) < 2:
            features: dict[str, Tensor] = super().get_cached_image_features(obs)
            return features
        return {key: self.image_encoder(obs[key]) for key in self.image_keys}


def _see(
    layers: GaussianActorObservationEncoder, config: LaryGaussianActorConfig, encoder: ObservationEncoder
) -> None:
    """Give the stock layers their cameras; as a bound method the encoder is no part of them."""
    (height, width), channels = encoder.grid_size, encoder.out_channels
    layers.config, layers.image_keys, layers.has_images = config, list(config.image_features), True
    layers.image_encoder = encoder.feature_map
    layers.spatial_embeddings, layers.post_encoders = nn.ModuleDict(), nn.ModuleDict()
    for key in layers.image_keys:
        name = key.replace(".", "_")
        points = config.image_embedding_pooling_dim
        layers.spatial_embeddings[name] = SpatialLearnedEmbeddings(height, width, channels, points)
        layers.post_encoders[name] = nn.Sequential(
            nn.Dropout(0.1),  # as in the stock layers
            nn.Linear(channels * points, config.latent_dim),
            nn.LayerNorm(config.latent_dim),
            nn.Tanh(),
        )
    layers._compute_output_dim()
