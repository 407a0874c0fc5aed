"""Encoding without waiting: batches travel to and from the device while others are encoded."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor

from lary_policy.encoders.base import LatentEncoder

# Batches whose latents have not arrived when the next one starts: one is encoded, one travels back.
IN_FLIGHT = 2

Tensors = tuple[Tensor, ...]


def encode_stream[K](
    encode: Callable[..., Tensors], batches: Iterable[tuple[K, Tensors]]
) -> Iterator[tuple[K, Tensors]]:
    """Encode batches one after the other, with transfers and computation overlapped on a GPU.

    The order stays, and the latents are those of `encode(*tensors)` on the CPU. At most three batches are on
    the device at a time.

    Args:
        encode: From the tensors of a batch to latents (and what comes with them), on the encoder's device.
        batches: A key and tensors in host memory (frames, ...) for each batch, taken as they are needed.

    Yields:
        The key of each batch and what `encode` made of it, in host memory.

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
