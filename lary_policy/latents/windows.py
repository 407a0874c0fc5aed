"""The shapes of windows: one frame, a pair, a whole clip, the history of a policy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from lary_policy.encoders import LatentEncoder, encode_pairs, pair_spec
from lary_policy.errors import FrameFormatError, ShapeError
from lary_policy.frames import clip_id, pair_id
from lary_policy.latents.encode import WindowEncoder, WindowKind
from lary_policy.types import LatentSpec


def frame_latent(encoder: WindowEncoder) -> LatentSpec:
    """Return the shape of the latent of one frame.

    Raises:
        ShapeError: The encoder has latents of several frames only.
    """
    if encoder.latent.kind != "frame":
        raise ShapeError(
            expected="an encoder with one latent a frame",
            got=f"kind '{encoder.latent.kind}'",
            fix="Encode pairs or clips with it.",
        )
    return encoder.latent


def clip_latent(encoder: LatentEncoder, frames: int) -> LatentSpec:
    """Return the shape of the latent of a clip of t frames: the tokens of all its time steps together.

    A clip of grey frames is encoded to find out how many steps there are.
    """
    px = encoder.spec.image_px
    grey = torch.full((1, frames, px, px, 3), 127, dtype=torch.uint8)
    return joined_latent(encoder.latent, _whole_clips(encoder, grey).shape[1])


def joined_latent(latent: LatentSpec, steps: int) -> LatentSpec:
    """Return the shape of a latent whose t' time steps lie one after the other among its tokens."""
    grid = None if latent.grid is None else (steps * latent.grid[0], *latent.grid[1:])
    return replace(latent, tokens=steps * latent.tokens, grid=grid)


def window_id(frames: Sequence[str]) -> str:
    """Return the id (64 hex digits) of frames in this order, given their own ids."""
    return hashlib.sha256(">".join(("window", *frames)).encode()).hexdigest()


def _frame_name(frames: Sequence[str]) -> str:
    (frame,) = frames
    return frame


def _encode_frames(encoder: WindowEncoder, frames: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    return (encoder.encode(frames.unsqueeze(1)).flatten(1, 2),)  # windows of one frame are the frames


def _encode_pairs(encoder: WindowEncoder, frames: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    found = encode_pairs(cast(LatentEncoder, encoder), frames, places)
    return (found.latents,) if found.codes is None else (found.latents, found.codes)


def _encode_clips(encoder: WindowEncoder, frames: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    return (_whole_clips(encoder, frames[places]).flatten(1, 2),)


def _whole_clips(encoder: WindowEncoder, frames: Tensor) -> Tensor:
    """Encode whole clips, uint8 `[b t h w 3]`, to `[b t' n d]`.

    Encoders that take frames two by two see the last frame of an odd clip twice (under preprocess=lary they
    drop it themselves, as the reference does).
    """
    try:
        return encoder.encode(frames)
    except FrameFormatError:
        if frames.shape[1] % 2 == 0:
            raise
        return encoder.encode(torch.cat((frames, frames[:, -1:]), 1))


def _encode_histories(encoder: WindowEncoder, frames: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    return (encoder.encode(frames[places]).flatten(1, 2),)


FRAMES = WindowKind("frame", _frame_name, _encode_frames, frame_latent)
PAIRS = WindowKind(
    "pair",
    lambda frames: pair_id(*frames),
    _encode_pairs,
    lambda encoder: pair_spec(cast(LatentEncoder, encoder)),
)
CLIPS = WindowKind("clip", clip_id, _encode_clips, whole=True)
HISTORIES = WindowKind("window", window_id, _encode_histories)
