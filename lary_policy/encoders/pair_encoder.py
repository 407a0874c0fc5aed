"""The encoder all latent action models share: what changed between two consecutive frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions, LatentEncoder, encoder_fingerprint
from lary_policy.encoders.modules import device_of, no_grad_if_frozen
from lary_policy.encoders.preprocess import check_frames, prepare_frames
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import Weights
from lary_policy.errors import ConfigError, FrameFormatError, ShapeError
from lary_policy.types import LatentSpec


@dataclass(frozen=True)
class PairTokens:
    """Everything a latent action model says about p pairs of frames.

    Attributes:
        continuous: Tokens before quantisation [p n d], without noise.
        quantised: Tokens made of codebook vectors [p n d].
        indices: Codes [p n], int64.
        lary: What the reference benchmark extracts [p n d], where it is neither of the two.
    """

    continuous: Tensor
    quantised: Tensor
    indices: Tensor
    lary: Tensor | None = None

    def output(self, name: str) -> Tensor:
        """Return the tokens [p n d] called `continuous`, `quantised` or `lary`.

        Raises:
            ConfigError: The model does not make them.
        """
        tokens = {"continuous": self.continuous, "quantised": self.quantised, "lary": self.lary}.get(name)
        if tokens is None:
            raise ConfigError(expected="an output that the model makes", got=name, fix="Use output=auto.")
        return tokens


class PairModel(Protocol):
    """A module that sees frames one by one and pairs through their features."""

    def features(self, images: Tensor) -> Tensor:
        """Return per-frame features [m ...] of images [m 3 h w]."""

    def action(self, first: Tensor, second: Tensor) -> PairTokens:
        """Return what happened between features [p ...] of two frames."""


class PairEncoder:
    """Encodes every pair of consecutive frames; a frame that is in two pairs goes through the backbone once.

    Args:
        spec: What the encoder is.
        options: Input size, pipeline, dtype, device and output.
        model: An `nn.Module` that is a `PairModel`; it is frozen and moved here.
        weights: Which weights the module holds.
        latent: Output of this model where it is not the spec's (toy sizes, inferred hyper-parameters).

    Attributes:
        spec: As given.
        latent: Output for one pair.
        fingerprint: 16 hex digits; equal fingerprints give equal latents.
        weights: As given.
        output: Which tokens are the latents.
        model: The frozen module.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        options: EncoderOptions,
        model: nn.Module,
        weights: Weights,
        latent: LatentSpec | None = None,
    ) -> None:
        self.spec = spec
        self.latent = replace(
            latent or spec.latent_at(options.image_px), quantised=options.output == "quantised"
        )
        self.weights = weights
        self.output = options.output
        self.fingerprint = encoder_fingerprint(spec, options, weights.sha256)
        self.model = model.to(options.device, options.dtype).eval().requires_grad_(False)
        self._options = options
        self._preprocess = spec.preprocess_named(options.preprocess)

    def encode(self, frames: Tensor) -> Tensor:
        """Encode the t - 1 pairs of consecutive frames.

        Args:
            frames: uint8 RGB [b t h w 3] of any size, t >= 2, on any device.

        Returns:
            Latents [b t-1 n d] in the encoder's dtype on its device.

        Raises:
            FrameFormatError: Frames are not uint8 [b t h w 3], or there is only one.
            ShapeError: The model's output contradicts the latent spec.
        """
        return self.latents(*self._consecutive(frames))

    @no_grad_if_frozen
    def encode_indices(self, frames: Tensor) -> Tensor:
        """Return the codes [b t-1 n] (int64) of the pairs of consecutive frames; raises as `encode`."""
        first, second = self._consecutive(frames)
        indices = self.tokens(first.flatten(0, 1), second.flatten(0, 1)).indices
        return indices.unflatten(0, first.shape[:2])

    @no_grad_if_frozen
    def features(self, frames: Tensor) -> Tensor:
        """Run the per-frame part alone: frames [b t h w 3] to features [b t ...]."""
        options = self._options
        images = prepare_frames(
            frames,
            options.image_px,
            self._preprocess,
            device=device_of(self.model, options.device),
            dtype=options.dtype,
        )
        return self._model.features(images).unflatten(0, frames.shape[:2])

    @no_grad_if_frozen
    def tokens(self, first: Tensor, second: Tensor) -> PairTokens:
        """Turn features [p ...] of the first and of the second frames into everything the model says."""
        return self._model.action(first, second)

    def latents(self, first: Tensor, second: Tensor) -> Tensor:
        """Turn features [b p ...] of the first and of the second frames into latents [b p n d].

        Raises:
            ShapeError: The model's output contradicts the latent spec.
        """
        tokens = self.tokens(first.flatten(0, 1), second.flatten(0, 1)).output(self.output)
        if tokens.shape[1:] != (self.latent.tokens, self.latent.width):
            raise ShapeError(
                expected=f"tokens [p {self.latent.tokens} {self.latent.width}] from '{self.spec.name}'",
                got=str(list(tokens.shape)),
                fix="Correct the encoder's LatentSpec or its module.",
            )
        return tokens.unflatten(0, first.shape[:2])

    @property
    def _model(self) -> PairModel:
        return self.model  # type: ignore[return-value]

    def _consecutive(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        check_frames(frames)
        if frames.shape[1] < 2:
            raise FrameFormatError(
                expected=f"at least two frames a sample for '{self.spec.name}', which encodes changes",
                got=f"{frames.shape[1]} in {list(frames.shape)}",
                fix="Pass frames [b t h w 3] with t >= 2.",
            )
        features = self.features(frames)
        return features[:, :-1], features[:, 1:]


@dataclass(frozen=True)
class PairLatents:
    """Latents of p pairs of frames.

    Attributes:
        latents: [p n d].
        codes: Codebook indices [p m] of encoders with a codebook, else None.
    """

    latents: Tensor
    codes: Tensor | None


def pair_spec(encoder: LatentEncoder) -> LatentSpec:
    """Return the shape of the latent of two frames.

    A clip encoder may make several latent steps of two frames: their tokens are joined. Two grey frames are
    encoded to find out how many.

    Raises:
        ShapeError: The encoder has a latent for each frame, none for two.
    """
    latent = encoder.latent
    if latent.kind == "frame":
        raise ShapeError(
            expected="an encoder of pairs or clips",
            got=f"'{encoder.spec.name}', which encodes each frame alone",
            fix="Use the frames' own latents.",
        )
    if latent.kind == "pair":
        return latent
    px = encoder.spec.image_px
    steps = encoder.encode(torch.full((1, 2, px, px, 3), 127, dtype=torch.uint8)).shape[1]
    grid = None if latent.grid is None else (steps * latent.grid[0], *latent.grid[1:])
    return replace(latent, tokens=steps * latent.tokens, grid=grid)


def encode_two(encoder: LatentEncoder, first: Tensor, second: Tensor) -> Tensor:
    """Encode what happened between first and second frames, uint8 [b h w 3] each, to latents [b n d]."""
    return encoder.encode(torch.stack((first, second), dim=1)).flatten(1, 2)


def encode_pairs(encoder: LatentEncoder, frames: Tensor, pairs: Tensor) -> PairLatents:
    """Encode pairs of frames; a frame that is in several goes through a pair encoder's backbone once.

    Args:
        encoder: An encoder of pairs or clips.
        frames: uint8 RGB [m h w 3].
        pairs: Rows of `frames` [p 2], int64: the first and the second frame of each pair.
    """
    if not isinstance(encoder, PairEncoder):
        return PairLatents(encode_two(encoder, frames[pairs[:, 0]], frames[pairs[:, 1]]), None)
    features = encoder.features(frames[None])[0]
    first, second = pairs.to(features.device).unbind(1)
    tokens = encoder.tokens(features[first], features[second])
    return PairLatents(tokens.output(encoder.output), tokens.indices)
