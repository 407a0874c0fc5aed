"""What the drop-in policies share: an encoder in place of a vision tower."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.utils.constants import ACTION, OBS_IMAGE, OBS_STATE
from torch import Tensor, nn

from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.policy.encoder import STILL, ObservationEncoder, load_exactly
from lary_policy.policy.features import require_cameras, require_cameras_and_action, require_env

FEATURES = ("keypoints", "pooled", "both")


class EncoderPolicy:
    """Stands before a stock policy in the bases; the policy then replaces its vision modules.

    Args:
        config: Configuration of the policy with the field `encoder`.
        kwargs: What LeRobot's factory passes besides; of it `dataset_meta` is read.

    Raises:
        EmbodimentError: The environment's actions are not those of the checkpoint.
        ConfigError: There is no camera, state or action, or the environment lacks a camera.
    """

    config: Any

    def __init__(self, config: Any, **kwargs: Any) -> None:
        config.learn_dataset(kwargs.get("dataset_meta"))
        require_cameras_and_action(config)
        self._require_state(config)
        require_env(config)
        stock = self._stock_config(config)
        super().__init__(stock)  # type: ignore[call-arg]  # the stock policy's
        for module in self.modules():  # type: ignore[attr-defined]
            if vars(module).get("config") is stock:
                module.config = config
        config.action_dim = config.action_feature.shape[0]
        # Opened in the first step, when the policy has its encoder; LeRobot trains a policy on one dataset.
        self._meta = kwargs.get("dataset_meta")
        self._latents: Any = None
        load_exactly(self)  # type: ignore[arg-type]  # checked when loading, with the modules of then

    @staticmethod
    def _require_state(config: Any) -> None:
        """Refuse inputs on which the stock policy would fail with a KeyError in its first step."""
        if config.robot_state_feature is None:
            raise ConfigError(
                expected=f"an input feature '{OBS_STATE}', which {config.type} needs as its original does",
                got=f"inputs {', '.join(config.input_features)}",
                fix="Use --policy.type=lary --policy.use_proprio=false for a vision-only policy.",
            )

    @staticmethod
    def _stock_config(config: Any) -> Any:
        """Return the configuration that the stock policy is built from."""
        return config

    def _encoders(self) -> list[ObservationEncoder]:
        """Return the encoders, each once."""
        return [m for m in self.modules() if isinstance(m, ObservationEncoder)]  # type: ignore[attr-defined]

    def reset(self) -> None:
        """Forget queues and ensembles, and check the range of the next images anew."""
        super().reset()  # type: ignore[misc]
        for encoder in self._encoders():
            encoder.reset()

    def forward(self, batch: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return what the stock policy returns; on the stored latents of a batch's frames if there are some.

        Raises:
            StoreError: The stored latents are not those of this encoder and dataset.
            ConfigError: The encoder is trained, and latents are stored.
        """
        if self.config.latents is None or self._meta is None or "index" not in batch:
            with self._seen(batch) as seen:
                return super().forward(seen, *args, **kwargs)  # type: ignore[misc]
        encoders = self._encoders()
        given = self._with_latents(batch, encoders)
        with _reading_latents(encoders):
            return super().forward(given, *args, **kwargs)  # type: ignore[misc]

    @contextlib.contextmanager
    def _seen(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Give the batch; where cameras differ in size, with their latents where their images are.

        The stock policies stack the images of all cameras, which needs one size. Latents have one.
        """
        cameras = [name for name in self.config.image_features if name in batch]
        if len({batch[name].shape[-2:] for name in cameras}) < 2:
            yield batch
            return
        encoders = self._encoders()
        if encoders[0].kind != "frame":
            raise ConfigError(
                expected=f"cameras of one size for '{self.config.encoder.name}', which sees several frames",
                got=", ".join(f"{name} {list(batch[name].shape[-2:])}" for name in cameras),
                fix="Choose an encoder of single frames, or --policy.type=lary.",
            )
        each = encoders if len(encoders) == len(cameras) else encoders[:1] * len(cameras)
        latents = torch.stack([encoder(batch[name]) for name, encoder in zip(cameras, each, strict=True)], 2)
        with _reading_latents(encoders):
            yield {**batch, **_as_images(cameras, latents, history=batch[cameras[0]].ndim > STILL)}

    def _with_latents(self, batch: dict[str, Any], encoders: list[ObservationEncoder]) -> dict[str, Any]:
        """Put the latents of a batch's frames where the stock policy looks for its images."""
        from lary_policy.policy.cache import LatentCache

        config = self.config
        if self._latents is None:
            self._latents = LatentCache.of_run(config, encoders[0].fingerprint, self._meta)
        for encoder in encoders:
            self._latents.require_frozen(encoder)
        cameras, deltas = tuple(config.image_features), config.observation_delta_indices
        training: bool = self.training  # type: ignore[attr-defined]  # the stock policy's
        latents = self._latents.lookup(batch["index"], cameras, deltas or [0], training=training)
        latents = latents.to(batch[ACTION].device)
        return {**batch, **_as_images(cameras, latents, history=bool(deltas))}

    def select_action(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """Return the next action [b a], float32 also under autocast, where LeRobot hands it to numpy.

        Raises:
            ConfigError: A camera is missing; the message names all of both.
        """
        require_cameras(self.config.image_features, (key for key in batch if key.startswith(OBS_IMAGE)))
        with self._seen(batch) as seen:
            action: Tensor = super().select_action(seen, **kwargs)  # type: ignore[misc]
        return action.float()

    def predict_action_chunk(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """Return the planned actions [b k a], float32 also under autocast."""
        with self._seen(batch) as seen:
            actions: Tensor = super().predict_action_chunk(seen, **kwargs)  # type: ignore[misc]
        return actions.float()

    def get_optim_params(self) -> Any:
        """Return the stock parameters or groups without frozen ones."""
        return trainable_only(super().get_optim_params())  # type: ignore[misc]


def _as_images(cameras: Sequence[str], latents: Tensor, *, history: bool) -> dict[str, Tensor]:
    """Return latents `[b t c n d]` as `[b t 1 n d]` of each camera, or `[b 1 n d]` without a history."""
    shown = latents if history else latents[:, 0]
    return {name: one.unsqueeze(-3) for name, one in zip(cameras, shown.unbind(-3), strict=True)}


@contextlib.contextmanager
def _reading_latents(encoders: Sequence[ObservationEncoder]) -> Iterator[None]:
    """Let encoders take what stands where the images do as their tokens."""
    for encoder in encoders:
        encoder.reads_latents = True
    try:
        yield
    finally:
        for encoder in encoders:
            encoder.reads_latents = False


def trainable_only(params: Any) -> Any:
    """Return parameters, groups of them or a dict of lists without those that need no gradient."""
    if isinstance(params, dict):
        return {k: trainable_only(v) if isinstance(v, list) else v for k, v in params.items()}
    return [
        trainable_only(p) if isinstance(p, dict) else p for p in params if getattr(p, "requires_grad", True)
    ]


def with_images(config: Any, side: int = 0) -> Any:
    """Return a copy of a configuration to build a stock policy from, whose own tower is then thrown away.

    Its images are `side` px (a ResNet is probed with one of that size, and needs more than 32 px); with 0 it
    has none, and no tower is built.
    """
    other = copy.copy(config)
    images = config.image_features
    vectors = {k: v for k, v in config.input_features.items() if k not in images}
    feature = PolicyFeature(FeatureType.VISUAL, (3, side, side))
    other.input_features = (dict.fromkeys(images, feature) if side else {}) | vectors
    return other


def build_encoder(config: Any) -> ObservationEncoder:
    """Build the encoder of a policy's configuration on the policy's device."""
    return ObservationEncoder(config.encoder, device=str(config.device))


def single_frame_encoder(config: Any) -> ObservationEncoder:
    """Build the encoder of a policy that looks at one frame; ConfigError if it needs several."""
    encoder = build_encoder(config)
    if encoder.kind != "frame":
        raise ConfigError(
            expected=f"an encoder of single frames: {config.type} looks at one observation",
            got=f"'{config.encoder.name}' of kind {encoder.kind}",
            fix="Use lary_diffusion, lary_vqbet, lary_multi_task_dit or lary with n_obs_steps >= 2.",
        )
    return encoder


class CameraFeatures(nn.Module):
    """One vector a frame from an encoder: keypoints of its feature map, its pooled tokens, or both.

    An encoder of pairs or clips sees the whole history of its camera; step i of s then reads latent step
    floor(i t' / s), so that the current step reads the last latent.

    Args:
        encoder: Encoder, which several cameras may share.
        config: Policy configuration with `encoder_features`, `encoder_feature_dim`, `n_obs_steps` and
            `spatial_softmax_num_keypoints`.
        cameras: Cameras whose frames come interleaved in one batch.

    Attributes:
        feature_dim: Width of the vector.

    Raises:
        UnknownNameError: `encoder_features` is none of FEATURES.
        ConfigError: The encoder needs a longer history.
    """

    def __init__(self, encoder: ObservationEncoder, config: Any, cameras: int = 1) -> None:
        super().__init__()
        if config.encoder_features not in FEATURES:
            raise UnknownNameError("encoder_features", config.encoder_features, FEATURES)
        if encoder.kind != "frame" and config.n_obs_steps < 2:
            raise ConfigError(
                expected=f"n_obs_steps >= 2 for '{config.encoder.name}' of kind {encoder.kind}",
                got=f"n_obs_steps={config.n_obs_steps}",
                fix="Set --policy.n_obs_steps=2 or more.",
            )
        self.encoder, self.cameras, self.steps = encoder, cameras, config.n_obs_steps
        self.feature_dim: int = config.encoder_feature_dim
        width, points = 0, config.spatial_softmax_num_keypoints
        if config.encoder_features != "pooled":
            from lerobot.policies.diffusion.modeling_diffusion import SpatialSoftmax

            self.keypoints = SpatialSoftmax((encoder.out_channels, *encoder.grid_size), num_kp=points)
            width += 2 * points
        if config.encoder_features != "keypoints":
            self.norm = nn.LayerNorm(encoder.embed_dim)  # widths of encoders differ in scale by orders
            width += encoder.embed_dim
        self.out = nn.Linear(width, self.feature_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Return features [(b s n) f] of frames [(b s n) 3 h w] in [0, 1] of n cameras and s steps."""
        tokens = self._tokens(images)
        parts = []
        if hasattr(self, "keypoints"):
            maps = tokens.mT.unflatten(2, (-1, *self.encoder.grid_size)).mean(2)  # [b d h w]
            parts.append(self.keypoints(maps).flatten(1))
        if hasattr(self, "norm"):
            parts.append(self.norm(tokens.mean(1)))
        # No ReLU as in the stock encoders: latents of one scene are alike, and all would die at once.
        vectors: Tensor = self.out(torch.cat(parts, -1))
        return vectors

    def get_output_shape(self) -> tuple[int, int, int]:
        """Return (f, 1, 1), as multi_task_dit asks its vision towers."""
        return self.feature_dim, 1, 1

    def _tokens(self, images: Tensor) -> Tensor:
        """Return tokens [(b s n) m d], of single frames or of the history up to them."""
        if self.encoder.kind == "frame":
            return self.encoder(images)[:, 0]
        steps, cameras = self.steps, self.cameras
        windows = images.unflatten(0, (-1, steps, cameras)).transpose(1, 2).flatten(0, 1)  # [(b n) s 3 h w]
        latents = self.encoder(windows)
        read = torch.arange(steps, device=latents.device) * latents.shape[1] // steps
        return latents[:, read].unflatten(0, (-1, cameras)).transpose(1, 2).flatten(0, 2)


def camera_features(config: Any) -> nn.ModuleList | CameraFeatures:
    """Return one module for all cameras, or one a camera where the configuration wants separate ones.

    A frozen encoder is one instance for all cameras; a trained one is separate where the modules are.
    """
    cameras = len(config.image_features)
    if not getattr(config, "use_separate_rgb_encoder_per_camera", False):
        return CameraFeatures(build_encoder(config), config, cameras)
    shared = build_encoder(config) if config.encoder.trainable == "none" else None
    return nn.ModuleList(CameraFeatures(shared or build_encoder(config), config) for _ in range(cameras))
