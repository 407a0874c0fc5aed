"""The latent of two frames, for every encoder that needs more than one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lary_policy.encoders.base import LatentEncoder
from lary_policy.encoders.pair_encoder import PairEncoder
from lary_policy.errors import ShapeError
from lary_policy.types import LatentSpec


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
