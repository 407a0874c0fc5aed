"""An encoder as a module of a LeRobot policy: LeRobot's images in; tokens, a feature map or a vector out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from lerobot.utils.constants import OBS_IMAGE
from torch import Tensor, nn

from lary_policy.errors import ConfigError, FrameFormatError, LaryPolicyError
from lary_policy.heads import LatentShape, TokenGrid
from lary_policy.policy.configuration_lary import EncoderConfig
from lary_policy.policy.encoder.images import to_frames
from lary_policy.policy.encoder.loading import load_referenced
from lary_policy.policy.encoder.state import attach_state_hooks
from lary_policy.policy.encoder.training import train_parts
from lary_policy.policy.features import require_cameras


class ObservationEncoder(nn.Module):
    """Encodes camera images for a policy; one instance may serve several cameras.

    Images are resized and normalised by the encoder's own pipeline: give them unnormalised (LeRobot's
    `normalization_mapping` with VISUAL IDENTITY). Frozen parts stay in eval mode when the policy trains.

    Args:
        config: Which encoder; `sha256` and `revision` are filled in.
        device: Where it is built; `.to()` moves it later.

    Attributes:
        latent: Tokens and width of one latent step.
        kind: `frame`, `pair` or `clip`; the last two need at least two frames.
        fingerprint: 16 hex digits; equal fingerprints give equal latents while nothing of it is trained.
            A checkpoint with other weights changes it.
        out_channels: Width d of tokens, feature maps and vectors, as `embed_dim`.
        reads_latents: Set while a policy trains on stored latents, which stand where its images do, one
            channel each: [b 1 n d] or [b t 1 n d]. Tokens are then these.

    Raises:
        ConfigError: The configuration does not fit the encoder.
        WeightsMissingError: The weights are not on this machine.
        WeightsMismatchError: They are not those whose hash `config.sha256` records.
    """

    device_mark: Tensor

    def __init__(self, config: EncoderConfig, device: str = "cpu") -> None:
        super().__init__()
        loaded = load_referenced(config, device)
        self.config = config
        self.encoder = loaded.encoder
        self.backbone: nn.Module = loaded.module
        self.awaits: LaryPolicyError | None = loaded.awaits
        self.fingerprint = loaded.fingerprint
        self.spec, self.latent = loaded.encoder.spec, loaded.encoder.latent
        self.kind = self.latent.kind
        self.out_channels = self.embed_dim = self.latent.width
        # Tells the device where the backbone has no tensors, as that of `pixels`.
        self.register_buffer("device_mark", torch.empty(0, device=device), persistent=False)
        self._values_checked = False
        self.reads_latents = False
        attach_state_hooks(self)
        self._trained: tuple[nn.Module, ...] = train_parts(loaded.encoder, self.backbone, config)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the feature map; ConfigError where tokens have no place in the image."""
        if self.latent.grid is None:
            raise ConfigError(
                expected="an encoder whose tokens form a grid, for a feature map",
                got=f"'{self.spec.name}', whose {self.latent.tokens} tokens have no position",
                fix="Use its tokens (forward) or their mean (pooled), or choose e.g. dinov2-small.",
            )
        return self.latent.grid[1], self.latent.grid[2]

    def forward(self, images: Tensor) -> Tensor:
        """Encode images, floats in [0, 1] `[b 3 h w]` or `[b t 3 h w]`, to float32 tokens `[b t' n d]`.

        t' is t for kind `frame`, t - 1 for `pair`, and what the model makes of t frames for `clip`. Tokens
        have gradients if a parameter of the backbone is trained.

        Raises:
            FrameFormatError: Wrong dtype, axes or range, or too few frames. Values are looked at in every
                call on the CPU, elsewhere in the first one after construction and `reset`.
            LaryPolicyError: A checkpoint that holds the weights was never loaded; says why no file served.
        """
        if self.awaits is not None:
            raise self.awaits
        if self.reads_latents:
            return images if images.ndim == 4 else images.squeeze(2)
        elsewhere = isinstance(images, Tensor) and not images.is_cpu
        frames = to_frames(images, check_values=not (elsewhere and self._values_checked))
        self._values_checked = True
        return self.encode_frames(frames)

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode uint8 RGB `[b t h w 3]` as `forward` does what LeRobot divides by 255.

        Raises:
            FrameFormatError: Too few frames.
            LaryPolicyError: See `forward`.
        """
        if self.awaits is not None:
            raise self.awaits
        if self.kind != "frame" and frames.shape[1] < 2:
            raise FrameFormatError(
                expected=f"two frames or more [b t 3 h w] for '{self.spec.name}', an encoder of {self.kind}s",
                got=str(list(frames.shape)),
                fix="Set n_obs_steps=2 or more, or choose an encoder of single frames, e.g. dinov2-small.",
            )
        tokens: Tensor = self.encoder.encode(frames)
        return tokens.to(self.device_mark.device, torch.float32)

    def feature_map(self, images: Tensor) -> Tensor:
        """Encode images to one map [b d h w] a sample, the last latent step's where there are several.

        Raises:
            ConfigError: Tokens of this encoder have no place in the image.
            FrameFormatError: See `forward`; or several frames for an encoder of single ones.
        """
        rows, columns = self.grid_size
        tokens = self(images)
        if self.kind == "frame" and tokens.shape[1] > 1:
            raise FrameFormatError(
                expected="one frame a feature map",
                got=f"{tokens.shape[1]} in {list(images.shape)}",
                fix="Fold time into the batch: images.flatten(0, 1).",
            )
        return tokens[:, -1].mT.unflatten(2, (-1, rows, columns)).mean(2)

    def pooled(self, images: Tensor) -> Tensor:
        """Encode images to one vector [b d] a sample: the mean over tokens and latent steps."""
        return self(images).flatten(1, 2).mean(1)

    def reset(self) -> None:
        """Look at the values of the next images again, on any device."""
        self._values_checked = False

    def train(self, mode: bool = True) -> ObservationEncoder:
        """Switch the parts that train; frozen ones stay in eval mode."""
        super().train(mode)
        self.backbone.eval()
        for part in self._trained:
            part.train(mode)
        return self


def camera_images(batch: Mapping[str, Tensor], cameras: Sequence[str]) -> list[Tensor]:
    """Return each camera's images `[b 3 h w]` or `[b t 3 h w]`, in order; ConfigError if one is missing."""
    require_cameras(cameras, [name for name in batch if name in cameras or name.startswith(OBS_IMAGE)])
    return [batch[name] for name in cameras]


def encode_views(encoder: ObservationEncoder, views: Sequence[Tensor]) -> Tensor:
    """Encode the images of c cameras to latents `[b t' c n d]`; views of one size go through together."""
    if len({view.shape for view in views}) > 1:
        return torch.stack([encoder(view) for view in views], 2)
    together = encoder(torch.stack(list(views), 1).flatten(0, 1))
    return together.unflatten(0, (-1, len(views))).transpose(1, 2)


def arrange(latents: Tensor, kind: str) -> Tensor:
    """Join the time steps of a clip, as a probe's head sees them: `[b t' c n d]` to `[b 1 c t'*n d]`."""
    if kind != "clip":
        return latents
    return latents.transpose(1, 2).flatten(2, 3).unsqueeze(1)


def seen_shape(
    encoder: ObservationEncoder, frames: int, cameras: int
) -> tuple[LatentShape, TokenGrid | None]:
    """Return (t, c, n, d) and the token layout of what a head sees of t frames and c cameras.

    How many time steps a clip encoder makes of t frames is found by encoding grey ones.
    """
    latent = encoder.latent
    if latent.kind != "clip":
        steps = frames if latent.kind == "frame" else frames - 1
        return (steps, cameras, latent.tokens, latent.width), latent.grid
    px = encoder.spec.image_px
    grey = torch.full((1, frames, 3, px, px), 0.5, device=encoder.device_mark.device)
    with torch.no_grad():
        steps = encoder(grey).shape[1]
    grid = None if latent.grid is None else (steps * latent.grid[0], *latent.grid[1:])
    return (1, cameras, steps * latent.tokens, latent.width), grid
