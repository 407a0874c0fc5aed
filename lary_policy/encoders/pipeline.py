"""Encoding without waiting: batches travel to and from the device while others are encoded."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor

from lary_policy.encoders.base import LatentEncoder

# Batches whose latents have not arrived when the next one starts: one is encoded, one travels back.
IN_FLIGHT = 2


def encode_stream(encoder: LatentEncoder, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Encode batches one after the other, with transfers and computation overlapped on a GPU.

    The order stays, and the latents are those of `encoder.encode(batch).cpu()`. At most three batches are on
    the device at a time.

    Args:
        encoder: Any encoder.
        batches: uint8 frames [b t h w 3] in host memory, taken as they are needed.

    Yields:
        Latents [b t' n d] in host memory, in the encoder's dtype.

    Raises:
        FrameFormatError: Frames are not what the encoder takes.
    """
    remaining = iter(batches)
    for frames in remaining:
        # Only the latents tell where the encoder runs.
        latents = encoder.encode(frames)
        yield latents.cpu()
        if latents.is_cuda:
            yield from _encode_overlapped(encoder, remaining, latents.device)


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


def _encode_overlapped(
    encoder: LatentEncoder, batches: Iterable[Tensor], device: torch.device
) -> Iterator[Tensor]:
    """Encode on the current stream, with one stream for each direction of transfer."""
    upload, download = torch.cuda.Stream(device), torch.cuda.Stream(device)
    pending: deque[tuple[Tensor, torch.cuda.Event]] = deque()
    for frames in batches:
        pending.append(_enqueue(encoder, frames, upload, download))
        if len(pending) > IN_FLIGHT:
            yield _arrived(*pending.popleft())
    while pending:
        yield _arrived(*pending.popleft())


def _enqueue(
    encoder: LatentEncoder, frames: Tensor, upload: torch.cuda.Stream, download: torch.cuda.Stream
) -> tuple[Tensor, torch.cuda.Event]:
    """Start the way of one batch to the device, through the encoder and back; wait for nothing."""
    compute = torch.cuda.current_stream(upload.device)
    with torch.cuda.stream(upload):
        # Only pinned memory travels without the host's waiting; torch keeps and reuses such blocks.
        resident = frames.pin_memory().to(upload.device, non_blocking=True)
    compute.wait_stream(upload)
    resident.record_stream(compute)
    latents = encoder.encode(resident)
    download.wait_stream(compute)
    with torch.cuda.stream(download):
        host = latents.to("cpu", non_blocking=True)
        latents.record_stream(download)
        done = torch.cuda.Event()
        done.record(download)
    return host, done


def _arrived(latents: Tensor, done: torch.cuda.Event) -> Tensor:
    done.synchronize()
    return latents
