"""Encoders in a closed loop: each world shows one frame after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from lary_policy.encoders.base import LatentEncoder
from lary_policy.encoders.pair_encoder import PairEncoder
from lary_policy.encoders.pairs import encode_two
from lary_policy.errors import FrameFormatError, ShapeError


class StreamingEncoder:
    """Latents of several streams of frames, one new frame a stream and call.

    What a new frame costs depends on the encoder's kind:

    - `frame`: one pass, nothing is kept.
    - `pair`: the features of the last frame are kept, so one pass of the backbone and one of the part that
      compares two frames. The latent says what changed since the frame before; a stream's first frame is
      compared with itself.
    - `clip`: the backbone mixes both frames from its first layer on (V-JEPA 2's tubelets, Wan's causal
      convolutions), so no features can be kept. The last frame itself is, and a call encodes clips of two.

    villa-X is in between: its attention over time stands in every block, so only the patch embedding and the
    first attention within the frame are kept.

    Args:
        encoder: Any encoder.
        num_streams: Streams w, e.g. worlds.
    """

    def __init__(self, encoder: LatentEncoder, num_streams: int) -> None:
        self.encoder = encoder
        self._known = torch.zeros(num_streams, dtype=torch.bool)
        self._last: Tensor | None = None

    def reset(self, mask: Tensor | None = None) -> None:
        """Forget the last frame of the streams in `mask` (bool [w]), or of all."""
        self._known &= ~torch.ones_like(self._known) if mask is None else ~mask.to(self._known)

    def push(self, frames: Tensor) -> Tensor:
        """Encode the next frame of every stream.

        Args:
            frames: uint8 RGB [w h w 3], or [w c h w 3] for c cameras a stream.

        Returns:
            Latents [w n d] or [w c n d] on the encoder's device.

        Raises:
            FrameFormatError: Frames are not uint8, or of another rank.
            ShapeError: There are more or fewer frames than streams.
        """
        self._check(frames)
        lead = frames.shape[:-3]
        flat = frames.flatten(0, -4)
        encoder = self.encoder
        if encoder.latent.kind == "frame":
            latents = encoder.encode(flat[:, None])[:, 0]
        elif isinstance(encoder, PairEncoder):
            now = encoder.features(flat[:, None])[:, 0]
            latents = encoder.latents(self._exchange(now)[None], now[None])[0]
        else:
            latents = encode_two(encoder, self._exchange(flat), flat)
        return latents.unflatten(0, lead)

    def _exchange(self, now: Tensor) -> Tensor:
        """Keep what a frame gave; return what its stream's last one did, or `now` where there is none."""
        last, self._last = self._last, now
        known = self._known.to(now.device).repeat_interleave(len(now) // len(self._known))
        self._known = torch.ones_like(self._known)
        return now if last is None else torch.where(known.view(-1, *[1] * (now.ndim - 1)), last, now)

    def _check(self, frames: Tensor) -> None:
        if frames.ndim not in (4, 5) or frames.dtype != torch.uint8:
            raise FrameFormatError(
                expected="uint8 frames [w h w 3] or [w c h w 3], one for each stream (and camera)",
                got=f"{frames.dtype} {list(frames.shape)}",
                fix="Pass the present frames alone, without a time dimension.",
            )
        if len(frames) != len(self._known):
            raise ShapeError(
                expected=f"frames of {len(self._known)} streams",
                got=str(len(frames)),
                fix="Make a StreamingEncoder for each number of streams.",
            )
