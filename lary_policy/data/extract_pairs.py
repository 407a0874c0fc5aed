"""Encode each unique pair of frames once and put its latent into a store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lary_policy.data.extract import (
    SHARD_FRAMES,
    ExtractReport,
    ShardWriter,
    check_store,
    decoded,
    identify,
)
from lary_policy.data.frames import Frame, pair_id
from lary_policy.data.store import LatentStore
from lary_policy.encoders.base import LatentEncoder
from lary_policy.encoders.pairs import PairLatents, encode_pairs, pair_spec
from lary_policy.progress import OnProgress
from lary_policy.types import Quarantined

FramePair = tuple[str, str]  # ids of the first and of the second frame


def extract_pairs(
    pairs: Iterable[tuple[Frame, Frame]],
    encoder: LatentEncoder,
    store: LatentStore,
    *,
    batch_size: int = 32,
    shard_pairs: int = SHARD_FRAMES,
    decode_threads: int = 1,
    on_progress: OnProgress | None = None,
) -> ExtractReport:
    """Encode every pair of frames that the store lacks; start again to continue.

    Pairs that follow each other in a batch share their frames: a pair encoder's backbone sees each frame of
    a batch once. Codebook indices are stored beside the latents.

    Args:
        pairs: First and second frame of each pair.
        encoder: An encoder of pairs or clips.
        store: Store with the encoder's fingerprint and the shape of `pair_spec(encoder)`.
        batch_size: Pairs encoded at once.
        shard_pairs: Most pairs of one shard; an interruption costs at most this many encodes.
        decode_threads: Threads that decode the next batches meanwhile.
        on_progress: Called with (pairs done, pairs to encode).

    Raises:
        StoreError: The store belongs to another encoder, a latent is not finite, or the disk is full.
        ShapeError: The encoder has a latent for each frame, or not the stated shape.
    """
    start = time.perf_counter()
    check_store(store, encoder.fingerprint, pair_spec(encoder))
    wanted = list(pairs)
    ids, quarantined = identify(path for pair in wanted for path in pair)
    files = {frame: path for path, frame in reversed(ids.items())}
    readable = [(ids[first], ids[second]) for first, second in wanted if first in ids and second in ids]
    named = {pair_id(*pair): pair for pair in readable}
    absent = store.missing(named)
    batches = [absent[i : i + batch_size] for i in range(0, len(absent), batch_size)]
    images = ([(f, files[f]) for f in _frames(batch, named)] for batch in batches)
    writer, encode_seconds, done = ShardWriter(store, shard_pairs), 0.0, 0
    for batch, (frame_ids, frames, bad) in zip(batches, decoded(images, decode_threads), strict=True):
        quarantined.extend(bad)
        began = time.perf_counter()
        quarantined.extend(_add(batch, named, dict(zip(frame_ids, frames, strict=True)), encoder, writer))
        encode_seconds += time.perf_counter() - began
        done += len(batch)
        if on_progress is not None:
            on_progress(done, len(absent))
    writer.flush()
    return ExtractReport(
        requested=len({path for pair in wanted for path in pair}),
        unique=len(named),
        encoded=writer.written,
        reused=len(named) - len(absent),
        quarantined=tuple(dict.fromkeys(quarantined)),
        seconds=time.perf_counter() - start,
        encode_seconds=encode_seconds,
        unit="pair",
        ids=tuple(named),
    )


def _frames(batch: Sequence[str], named: dict[str, FramePair]) -> list[str]:
    """Return the ids of the frames of a batch of pairs, each once."""
    return list(dict.fromkeys(frame for pair in batch for frame in named[pair]))


def _add(
    batch: Sequence[str],
    named: dict[str, FramePair],
    frames: dict[str, Tensor],
    encoder: LatentEncoder,
    writer: ShardWriter,
) -> list[Quarantined]:
    """Encode the pairs of a batch whose frames were decoded; return those of two image sizes."""
    aside: list[Quarantined] = []
    by_size: dict[torch.Size, list[str]] = {}
    for pair in batch:
        first, second = (frames.get(frame) for frame in named[pair])
        if first is None or second is None:
            continue
        if first.shape != second.shape:
            reason = f"frames {named[pair][0][:16]} and {named[pair][1][:16]} have different sizes"
            aside.append(Quarantined(pair, reason, "extract"))
            continue
        by_size.setdefault(first.shape, []).append(pair)
    for pairs in by_size.values():
        found = _encode(encoder, pairs, named, frames)
        writer.add(pairs, found.latents, found.codes)
    return aside


def _encode(
    encoder: LatentEncoder, pairs: Sequence[str], named: dict[str, FramePair], frames: dict[str, Tensor]
) -> PairLatents:
    place = {frame: row for row, frame in enumerate(_frames(pairs, named))}
    index = torch.tensor([[place[frame] for frame in named[pair]] for pair in pairs])
    return encode_pairs(encoder, torch.stack([frames[frame] for frame in place]), index)
