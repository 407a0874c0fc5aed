"""The encoder all frame-wise families share: a module behind the input pipeline of its spec."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions, LatentEncoder
from lary_policy.encoders.modules import PAIR, ModuleEncoder, no_grad_if_frozen
from lary_policy.encoders.preprocess import check_frames
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import Weights
from lary_policy.errors import ConfigError, FrameFormatError, ShapeError
from lary_policy.types import LatentSpec


class FrameEncoder(ModuleEncoder):
    """Encodes each frame on its own; its module maps images [b 3 h w] to tokens [b n d]."""

    @no_grad_if_frozen
    def encode(self, frames: Tensor) -> Tensor:
        """Encode uint8 RGB frames [b t h w 3] of any size, on any device, to latents [b t n d] on its own.

        Gradients flow only where a parameter of the module is trained: it is frozen when it is loaded.

        Raises:
            FrameFormatError: Frames are not non-empty uint8 [b t h w 3].
            ShapeError: The model's output contradicts the latent spec.
        """
        check_frames(frames)
        images = self.prepared(frames, video=frames.shape[1] > PAIR)
        return self.checked(self.model(images)).unflatten(0, frames.shape[:2])


# From frames [b t h w 3] to the frames that the model gets; raises FrameFormatError for a t it cannot use.
FrameRule = Callable[[Tensor], Tensor]


class ClipEncoder(ModuleEncoder):
    """Encodes clips; the number of latent steps follows from the number of frames.

    Its module maps clips [b t 3 h w] to tokens [b t' n d]; the other arguments are those of `ModuleEncoder`.

    Args:
        frame_rule: Which frames of a clip the model gets.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        options: EncoderOptions,
        model: nn.Module,
        weights: Weights,
        frame_rule: FrameRule,
        latent: LatentSpec | None = None,
    ) -> None:
        # The rule decides the latents as well, and two input pipelines may differ in nothing else.
        super().__init__(spec, options, model, weights, latent, rule=frame_rule.__name__)
        self._frame_rule = frame_rule

    @no_grad_if_frozen
    def encode(self, frames: Tensor) -> Tensor:
        """Encode clips [b t h w 3] to latents [b t' n d], otherwise as `FrameEncoder.encode` does.

        Raises:
            FrameFormatError: Frames are not non-empty uint8 [b t h w 3], or the model cannot use t frames.
            ShapeError: The model's output contradicts the latent spec.
        """
        check_frames(frames)
        frames = self._frame_rule(frames)
        images = self.prepared(frames, video=True)
        return self.checked(self.model(images.unflatten(0, frames.shape[:2])))


@dataclass(frozen=True)
class PairTokens:
    """Everything a latent action model says about p pairs of frames."""

    continuous: Tensor  # tokens before quantisation [p n d], without noise
    quantised: Tensor  # tokens made of codebook vectors [p n d]
    indices: Tensor  # codes [p n], int64
    # What the reference benchmark extracts [p n d], where it is neither of the two
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

    def unflatten(self, shape: tuple[int, int]) -> PairTokens:
        """Return the same with the p pairs as `shape` (b, p / b)."""
        lary = None if self.lary is None else self.lary.unflatten(0, shape)
        return PairTokens(
            self.continuous.unflatten(0, shape),
            self.quantised.unflatten(0, shape),
            self.indices.unflatten(0, shape),
            lary,
        )


class PairModel(Protocol):
    """A module that sees frames one by one and pairs through their features."""

    def features(self, images: Tensor) -> Tensor:
        """Return per-frame features [m ...] of images [m 3 h w]."""

    def action(self, first: Tensor, second: Tensor) -> PairTokens:
        """Return what happened between features [p ...] of two frames."""


@runtime_checkable
class WindowModel(Protocol):
    """A pair model that also knows the frames before a pair."""

    def clip(self, features: Tensor) -> PairTokens:
        """Return what happened between the frames of clips, [b t-1 n d] of features [b t ...]."""


class PairEncoder(ModuleEncoder):
    """Encodes every pair of consecutive frames; a frame that is in two pairs goes through the backbone once.

    Two frames make a pair. Of longer clips a `WindowModel` gives latents that depend on the frames before
    each pair as well, so that a pair in a clip has not the latent of the pair alone. Its module is a
    `PairModel`, arguments are those of `ModuleEncoder`.

    Attributes:
        output: Which tokens are the latents.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        options: EncoderOptions,
        model: nn.Module,
        weights: Weights,
        latent: LatentSpec | None = None,
    ) -> None:
        super().__init__(spec, options, model, weights, latent)
        self.latent = replace(self.latent, quantised=options.output == "quantised")
        self.output = options.output

    @no_grad_if_frozen
    def encode(self, frames: Tensor) -> Tensor:
        """Encode the t - 1 pairs of consecutive frames [b t h w 3] to latents [b t-1 n d].

        Raises:
            FrameFormatError: Frames are not uint8 [b t h w 3], or there is only one.
            ShapeError: The model's output contradicts the latent spec.
        """
        return self.checked(self._consecutive(frames).output(self.output))

    @no_grad_if_frozen
    def encode_indices(self, frames: Tensor) -> Tensor:
        """Return the codes [b t-1 n] (int64) of the pairs of consecutive frames; raises as `encode`."""
        return self._consecutive(frames).indices

    @no_grad_if_frozen
    def features(self, frames: Tensor) -> Tensor:
        """Run the per-frame part alone: frames [b t h w 3], read as images, to features [b t ...]."""
        return self._features(frames, video=False)

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
        return self.checked(tokens).unflatten(0, first.shape[:2])

    @property
    def _model(self) -> PairModel:
        return self.model  # type: ignore[return-value]

    def _features(self, frames: Tensor, *, video: bool) -> Tensor:
        images = self.prepared(frames, video=video)
        return self._model.features(images).unflatten(0, frames.shape[:2])

    def _consecutive(self, frames: Tensor) -> PairTokens:
        """Return what the model says about the pairs of consecutive frames, [b t-1 n d]."""
        check_frames(frames)
        batch, count = frames.shape[:2]
        if count < PAIR:
            raise FrameFormatError(
                expected=f"at least two frames a sample for '{self.spec.name}', which encodes changes",
                got=f"{count} in {list(frames.shape)}",
                fix="Pass frames [b t h w 3] with t >= 2.",
            )
        features = self._features(frames, video=count > PAIR)
        if count > PAIR and isinstance(self.model, WindowModel):
            return self.model.clip(features)
        pairs = self._model.action(features[:, :-1].flatten(0, 1), features[:, 1:].flatten(0, 1))
        return pairs.unflatten((batch, count - 1))


@dataclass(frozen=True)
class PairLatents:
    """Latents of p pairs of frames."""

    latents: Tensor  # [p n d]
    codes: Tensor | None  # codebook indices [p m] of encoders with a codebook, else None


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

    Frames are uint8 RGB [m h w 3]; `pairs` [p 2], int64, has the rows of the first and second frames.
    """
    if not isinstance(encoder, PairEncoder):
        return PairLatents(encode_two(encoder, frames[pairs[:, 0]], frames[pairs[:, 1]]), None)
    features = encoder.features(frames[None])[0]
    first, second = pairs.to(features.device).unbind(1)
    tokens = encoder.tokens(features[first], features[second])
    return PairLatents(tokens.output(encoder.output), tokens.indices)
