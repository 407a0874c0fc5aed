"""Latents of windows of frames, for encoders that need several frames at once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lary_policy.data.extract import SHARD_FRAMES, ExtractReport, ShardWriter, decoded
from lary_policy.data.frames import Frame, frame_id
from lary_policy.data.store import LatentStore
from lary_policy.progress import OnProgress
from lary_policy.types import Quarantined

Window = tuple[Frame, ...]


def window_id(frames: Sequence[str]) -> str:
    """Return the id (64 hex digits) of frames in this order, given their own ids."""
    return hashlib.sha256(">".join(("window", *frames)).encode()).hexdigest()


def extract_windows(
    windows: Mapping[str, Window],
    encode: Callable[[Tensor], Tensor],
    store: LatentStore,
    *,
    batch_size: int = 32,
    shard_windows: int = SHARD_FRAMES,
    decode_threads: int = 1,
    on_progress: OnProgress | None = None,
) -> ExtractReport:
    """Encode every window that the store lacks; start again to continue.

    Args:
        windows: The frames of each window by its id; windows of one size of image follow each other.
        encode: Maps uint8 `[b t h w 3]` to latents `[b t' n d]`.
        store: Store of latents `[t' * n, d]`.
        batch_size: Windows encoded at once.
        shard_windows: Most windows of one shard; an interruption costs at most this many encodes.
        decode_threads: Threads that decode the next batches meanwhile.
        on_progress: Called with (windows done, windows to encode).

    Raises:
        StoreError: A latent is not finite, or the disk is full.
    """
    start = time.perf_counter()
    absent = store.missing(windows)
    batches = [absent[i : i + batch_size] for i in range(0, len(absent), batch_size)]
    named = {frame: frame_id(frame) for window in absent for frame in dict.fromkeys(windows[window])}
    images = (
        [(named[f], f) for f in dict.fromkeys(f for window in batch for f in windows[window])]
        for batch in batches
    )
    writer, encode_seconds, done = ShardWriter(store, shard_windows), 0.0, 0
    quarantined: list[Quarantined] = []
    for batch, (ids, frames, bad) in zip(batches, decoded(images, decode_threads), strict=True):
        quarantined.extend(bad)
        image = dict(zip(ids, frames, strict=True))
        for group in _same_size(batch, windows, named, image):
            clips = torch.stack([torch.stack([image[named[f]] for f in windows[w]]) for w in group])
            began = time.perf_counter()
            latents = encode(clips).flatten(1, 2)
            encode_seconds += time.perf_counter() - began
            writer.add(group, latents)
        done += len(batch)
        if on_progress is not None:
            on_progress(done, len(absent))
    writer.flush()
    return ExtractReport(
        requested=len(windows),
        unique=len(windows),
        encoded=writer.written,
        reused=len(windows) - len(absent),
        quarantined=tuple(dict.fromkeys(quarantined)),
        seconds=time.perf_counter() - start,
        encode_seconds=encode_seconds,
        unit="window",
        ids=tuple(windows),
    )


def _same_size(
    batch: Sequence[str],
    windows: Mapping[str, Window],
    named: Mapping[Frame, str],
    image: Mapping[str, Tensor],
) -> list[list[str]]:
    """Group the windows whose frames were all decoded by the size of their images."""
    groups: dict[torch.Size, list[str]] = {}
    for window in batch:
        frames = [image.get(named[f]) for f in windows[window]]
        if all(f is not None for f in frames) and frames[0] is not None:
            groups.setdefault(frames[0].shape, []).append(window)
    return list(groups.values())
