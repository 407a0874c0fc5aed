"""Encoders made worse on purpose: controls, whose success a good offline score must foretell, too."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import replace

import torch
from torch import Tensor

from lary_policy.encoders.base import LatentEncoder
from lary_policy.errors import ConfigError
from lary_policy.types import LatentSpec


class NoisyEncoder:
    """Latents of frames with Gaussian noise; the noise of a frame is always the same.

    It is drawn from a seed and the frame's pixels, so that stored and live latents of a frame agree and a
    batch's other frames do not matter.

    Args:
        encoder: An encoder of frames.
        std: Deviation of the noise, in deviations of the numbers of the frame's own latent.
        seed: Of the noise.

    Raises:
        ConfigError: It is no encoder of frames.
    """

    def __init__(self, encoder: LatentEncoder, std: float, seed: int) -> None:
        require_frames(encoder, "noise")
        self._encoder, self._std, self._seed = encoder, std, seed
        self.spec, self.latent = encoder.spec, encoder.latent
        self.fingerprint = control_fingerprint(encoder, f"noise {std} {seed}")

    def encode(self, frames: Tensor) -> Tensor:
        """Encode uint8 RGB frames [b t h w 3] to latents [b t n d]."""
        latents = self._encoder.encode(frames)
        drawn = torch.stack([self._noise(one, latents.shape[2:]) for one in frames.flatten(0, 1).cpu()])
        scale = latents.float().std(dim=(2, 3), keepdim=True, correction=0)
        noise = drawn.unflatten(0, latents.shape[:2]).to(latents.device)
        return (latents.float() + self._std * scale * noise).to(latents.dtype)

    def _noise(self, frame: Tensor, shape: torch.Size) -> Tensor:
        seed = zlib.crc32(frame.contiguous().numpy().tobytes(), self._seed)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class ComponentEncoder:
    """Principal components of all tokens of a frame as one token.

    Args:
        encoder: An encoder of frames.
        mean: `[n*d]`.
        axes: Orthonormal columns `[n*d p]`.
        fitted_on: Digest of what they were fitted on.
    """

    def __init__(self, encoder: LatentEncoder, mean: Tensor, axes: Tensor, fitted_on: str) -> None:
        require_frames(encoder, "components")
        self._encoder, self._mean, self._axes = encoder, mean, axes
        self.spec = encoder.spec
        self.latent: LatentSpec = replace(encoder.latent, tokens=1, width=axes.shape[1], grid=None)
        self.fingerprint = control_fingerprint(encoder, f"components {axes.shape[1]} {fitted_on}")

    def encode(self, frames: Tensor) -> Tensor:
        """Encode uint8 RGB frames [b t h w 3] to latents [b t 1 p], float32."""
        latents = self._encoder.encode(frames).flatten(2).float()
        mean, axes = self._mean.to(latents.device), self._axes.to(latents.device)
        return ((latents - mean) @ axes).unsqueeze(2)


def require_frames(encoder: LatentEncoder, control: str) -> None:
    """Raise ConfigError unless an encoder has a latent for each frame."""
    if encoder.latent.kind != "frame":
        raise ConfigError(
            expected=f"an encoder with a latent for each frame, for the control {control}",
            got=f"{encoder.spec.name}, of kind {encoder.latent.kind}",
            fix=f"Leave {control} out.",
        )


def control_fingerprint(encoder: LatentEncoder, what: str) -> str:
    """Return the fingerprint of an encoder with something done to its latents."""
    return hashlib.sha256(f"{encoder.fingerprint} {what}".encode()).hexdigest()[:16]
