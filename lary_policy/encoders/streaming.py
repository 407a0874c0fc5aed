"""Encoders in a closed loop: each world shows one frame after the other."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor

from lary_policy.encoders.base import LatentEncoder
from lary_policy.encoders.kinds import PairEncoder, encode_two
from lary_policy.errors import FrameFormatError, ShapeError
from lary_policy.machine import made_ahead


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
        self._last: Tensor | None = None  # [w*c ...]

    def reset(self, mask: Tensor | None = None) -> None:
        """Forget the last frame of the streams in `mask` (bool [w]), or of all."""
        forgotten = torch.ones_like(self._known) if mask is None else mask.to(self._known)
        self._known &= ~forgotten

    def push(self, frames: Tensor, streams: Tensor | None = None) -> Tensor:
        """Encode the next frame of every stream, or of some.

        Args:
            frames: uint8 RGB [m h w 3], or [m c h w 3] for c cameras a stream.
            streams: Which streams the frames belong to (int64 [m]); all w by default.

        Returns:
            Latents [m n d] or [m c n d] on the encoder's device.

        Raises:
            FrameFormatError: Frames are not uint8, or of another rank.
            ShapeError: There are more or fewer frames than streams.
        """
        streams = torch.arange(len(self._known), device=frames.device) if streams is None else streams
        self._check(frames, streams)
        lead = frames.shape[:-3]
        flat = frames.flatten(0, -4)
        encoder = self.encoder
        if encoder.latent.kind == "frame":
            latents = encoder.encode(flat[:, None])[:, 0]
        elif isinstance(encoder, PairEncoder):
            now = encoder.features(flat[:, None])[:, 0]
            latents = encoder.latents(self._exchange(now, streams)[None], now[None])[0]
        else:
            latents = encode_two(encoder, self._exchange(flat, streams), flat)
        return latents.unflatten(0, lead)

    def _exchange(self, now: Tensor, streams: Tensor) -> Tensor:
        """Keep what a frame gave; return what its stream's last one did, or `now` where there is none."""
        cameras = len(now) // len(streams)
        if self._last is None:
            self._last = now.new_zeros(len(self._known) * cameras, *now.shape[1:])
            self._known = self._known.to(now.device)
        streams = streams.to(now.device)
        rows = (streams[:, None] * cameras + torch.arange(cameras, device=now.device)).flatten()
        known = self._known[streams].repeat_interleave(cameras)
        before = torch.where(known.view(-1, *[1] * (now.ndim - 1)), self._last[rows], now)
        self._last[rows] = now
        self._known[streams] = True
        return before

    def _check(self, frames: Tensor, streams: Tensor) -> None:
        if frames.ndim not in (4, 5) or frames.dtype != torch.uint8:
            raise FrameFormatError(
                expected="uint8 frames [w h w 3] or [w c h w 3], one for each stream (and camera)",
                got=f"{frames.dtype} {list(frames.shape)}",
                fix="Pass the present frames alone, without a time dimension.",
            )
        if len(frames) != len(streams):
            raise ShapeError(
                expected=f"frames of {len(streams)} streams",
                got=str(len(frames)),
                fix="Name the streams that the frames belong to, or pass a frame of each.",
            )


# Batches whose latents have not arrived when the next one starts: one is encoded, one travels back.
IN_FLIGHT = 2

Tensors = tuple[Tensor, ...]


def encode_stream[K](
    encode: Callable[..., Tensors], batches: Iterable[tuple[K, Tensors]], threads: int = 0
) -> Iterator[tuple[K, Tensors]]:
    """Encode batches one after the other, with transfers and computation overlapped on a GPU.

    A batch is a key and tensors in host memory (frames, ...), taken as it is needed; what comes out is the
    key and what `encode(*tensors)` made of them on the encoder's device, in host memory. The order stays. At
    most three batches are on the device at a time. On a CPU `threads` threads encode one batch each, which
    keeps more cores busy than sharing every operation among them; 0 encodes in the caller's.

    Raises:
        FrameFormatError: Frames are not what the encoder takes.
    """
    remaining = iter(batches)
    for key, tensors in remaining:
        # Only the latents tell where the encoder runs.
        outputs = encode(*tensors)
        yield key, tuple(output.cpu() for output in outputs)
        if outputs[0].is_cuda:
            yield from _encode_overlapped(encode, remaining, outputs[0].device)
        else:
            yield from made_ahead(remaining, lambda one: (one[0], encode(*one[1])), threads)


def compiled(encoder: LatentEncoder, **options: Any) -> LatentEncoder:
    """Return a twin of an encoder that shares its weights and runs its model through `torch.compile`.

    The first batch of each shape takes a minute. Latents agree with the original's up to rounding, as they do
    between devices, so the fingerprint is the same.

    Args:
        encoder: Encoder that runs its attribute `model`, as all registered ones do.
        options: Arguments of `torch.compile`.
    """
    twin = cast(Any, copy.copy(encoder))
    if encoder.latent.kind == "pair":
        twin.model = copy.copy(twin.model)
        twin.model.features = torch.compile(twin.model.features, **options)
        twin.model.action = torch.compile(twin.model.action, **options)
    else:
        twin.model = torch.compile(twin.model, **options)
    return cast(LatentEncoder, twin)


def _encode_overlapped[K](
    encode: Callable[..., Tensors], batches: Iterable[tuple[K, Tensors]], device: torch.device
) -> Iterator[tuple[K, Tensors]]:
    """Encode on the current stream, with one stream for each direction of transfer."""
    upload, download = torch.cuda.Stream(device), torch.cuda.Stream(device)
    pending: deque[tuple[K, Tensors, torch.cuda.Event]] = deque()
    for key, tensors in batches:
        pending.append((key, *_enqueue(encode, tensors, upload, download)))
        if len(pending) > IN_FLIGHT:
            yield _arrived(*pending.popleft())
    while pending:
        yield _arrived(*pending.popleft())


def _enqueue(
    encode: Callable[..., Tensors], tensors: Tensors, upload: torch.cuda.Stream, download: torch.cuda.Stream
) -> tuple[Tensors, torch.cuda.Event]:
    """Start the way of one batch to the device, through the encoder and back; wait for nothing."""
    compute = torch.cuda.current_stream(upload.device)
    with torch.cuda.stream(upload):
        # Only pinned memory travels without the host's waiting; torch keeps and reuses such blocks.
        resident = [tensor.pin_memory().to(upload.device, non_blocking=True) for tensor in tensors]
    compute.wait_stream(upload)
    for tensor in resident:
        tensor.record_stream(compute)
    outputs = encode(*resident)
    download.wait_stream(compute)
    with torch.cuda.stream(download):
        host = tuple(output.to("cpu", non_blocking=True) for output in outputs)
        for output in outputs:
            output.record_stream(download)
        done = torch.cuda.Event()
        done.record(download)
    return host, done


def _arrived[K](key: K, outputs: Tensors, done: torch.cuda.Event) -> tuple[K, Tensors]:
    done.synchronize()
    return key, outputs
