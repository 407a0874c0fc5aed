"""Encode each unique frame, or each unique pair of frames, once and put its latent into a store."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lary_policy.console import OnProgress
from lary_policy.encoders import LatentEncoder, PairLatents, encode_pairs, pair_spec
from lary_policy.errors import FrameFormatError, ShapeError, StoreError
from lary_policy.frames import Frame, decode_frames, frame_id, pair_id
from lary_policy.latents.store import STORE_DTYPES, LatentStore
from lary_policy.types import LatentSpec, Quarantined

SHARD_BYTES = 64 * 2**20  # large enough for few files, small enough to hash and rewrite in a second
SHARD_FRAMES = 512  # ten seconds of a small ViT on two cores


class FrameEncoder(Protocol):
    """The part of `LatentEncoder` that the extraction of frames relies on."""

    fingerprint: str
    latent: LatentSpec

    def encode(self, frames: Tensor) -> Tensor:
        """Map uint8 `[b t h w 3]` to latents `[b t n d]`."""
        ...


@dataclass(frozen=True)
class ExtractReport:
    """What one extraction did.

    Attributes:
        requested: Frame files asked for.
        unique: Different frames (or pairs of frames) among the readable ones.
        encoded: Those encoded now.
        reused: Those that the store held already.
        quarantined: Files that could not be read or decoded.
        seconds: Wall time.
        encode_seconds: The part of it spent inside the encoder.
        unit: What is counted, `frame` or `pair`.
        ids: The ids of what is counted.
    """

    requested: int
    unique: int
    encoded: int
    reused: int
    quarantined: tuple[Quarantined, ...]
    seconds: float
    encode_seconds: float
    unit: str = "frame"
    ids: tuple[str, ...] = ()


def extract(
    paths: Iterable[Frame],
    encoder: FrameEncoder,
    store: LatentStore,
    *,
    batch_size: int = 32,
    shard_frames: int = SHARD_FRAMES,
    decode_threads: int = 1,
    on_progress: OnProgress | None = None,
) -> ExtractReport:
    """Encode every frame that the store lacks, once each however many files hold it; start again to continue.

    Args:
        paths: Image files, or frames inside larger files.
        encoder: A `frame` encoder.
        store: Store with the encoder's fingerprint and latent shape.
        batch_size: Frames encoded at once.
        shard_frames: Most frames of one shard; an interruption costs at most this many encodes.
        decode_threads: Threads that decode the next batches meanwhile; one does 2,000 112 px frames a second.
        on_progress: Called with (frames done, frames to encode).

    Raises:
        StoreError: The store belongs to another encoder, a latent is not finite, or the disk is full.
        ShapeError: The encoder does not put out one latent of the stated shape for each frame.
    """
    start = time.perf_counter()
    _check_match(encoder, store)
    requested = list(paths)
    ids_of, quarantined = identify(requested)
    files = {frame: path for path, frame in reversed(ids_of.items())}
    absent = store.missing(ids_of.values())
    todo = [(f, files[f]) for f in absent]
    writer = ShardWriter(store, shard_frames)
    encode_seconds, done = 0.0, 0
    batches = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
    for ids, frames, bad in decoded(batches, decode_threads):
        quarantined.extend(bad)
        for group_ids, group in _same_size(ids, frames):
            began = time.perf_counter()
            latents = _encode(encoder, group)
            encode_seconds += time.perf_counter() - began
            writer.add(group_ids, latents)
        done += len(ids) + len(bad)
        if on_progress is not None:
            on_progress(done, len(todo))
    writer.flush()
    return ExtractReport(
        requested=len(requested),
        unique=len(files),
        encoded=writer.written,
        reused=len(files) - len(absent),
        quarantined=tuple(quarantined),
        seconds=time.perf_counter() - start,
        encode_seconds=encode_seconds,
        ids=tuple(files),
    )


class ShardWriter:
    """Collects latents and publishes a shard whenever enough are there.

    Args:
        store: Where to.
        shard_frames: Most rows of a shard; `SHARD_BYTES` bounds it, too.

    Attributes:
        written: Rows published so far.
    """

    def __init__(self, store: LatentStore, shard_frames: int) -> None:
        self.written = 0
        self._store = store
        frame_bytes = store.latent.tokens * store.latent.width * STORE_DTYPES[store.dtype].itemsize
        self._limit = max(1, min(shard_frames, SHARD_BYTES // frame_bytes))
        self._ids: list[str] = []
        self._latents: list[Tensor] = []
        self._codes: list[Tensor] = []

    def add(self, ids: Sequence[str], latents: Tensor, codes: Tensor | None = None) -> None:
        """Take latents `[f n d]` and, of an encoder with a codebook, their codes `[f m]`."""
        self._ids.extend(ids)
        self._latents.append(latents.detach().to("cpu", torch.float32))
        if codes is not None:
            self._codes.append(codes.detach().cpu())
        if len(self._ids) >= self._limit:
            self.flush()

    def flush(self) -> None:
        """Publish what is there."""
        if self._ids:
            codes = {"codes": torch.cat(self._codes)} if self._codes else {}
            self._store.write_shard(self._ids, torch.cat(self._latents), **codes)
            self.written += len(self._ids)
            self._ids, self._latents, self._codes = [], [], []


def identify(paths: Iterable[Frame]) -> tuple[dict[Frame, str], list[Quarantined]]:
    """Return the id of each file that can be read, and those that cannot."""
    ids: dict[Frame, str] = {}
    quarantined = []
    for path in dict.fromkeys(paths):
        try:
            ids[path] = frame_id(path)
        except FrameFormatError as error:
            quarantined.append(Quarantined(str(path), str(error), "extract"))
    return ids, quarantined


Decoded = tuple[list[str], list[Tensor], list[Quarantined]]
Named = tuple[str, Frame]  # a frame's id and where it is


def _decode_batch(batch: Sequence[Named]) -> Decoded:
    ids: list[str] = []
    frames: list[Tensor] = []
    bad: list[Quarantined] = []
    for (frame, path), image in zip(batch, decode_frames([path for _, path in batch]), strict=True):
        if isinstance(image, FrameFormatError):
            bad.append(Quarantined(str(path), str(image), "extract"))
            continue
        frames.append(image)
        ids.append(frame)
    return ids, frames, bad


def decoded(batches: Iterable[Sequence[Named]], threads: int) -> Iterator[Decoded]:
    """Yield decoded batches in order, the next ones being decoded in threads while the caller works."""
    waiting = iter(batches)
    with ThreadPoolExecutor(threads) as pool:

        def submit(count: int) -> list[Future[Decoded]]:
            return [pool.submit(_decode_batch, batch) for batch in itertools.islice(waiting, count)]

        pending = deque(submit(threads))
        while pending:
            result = pending.popleft().result()
            pending.extend(submit(1))
            yield result


def _same_size(ids: Sequence[str], frames: Sequence[Tensor]) -> Iterator[tuple[list[str], Tensor]]:
    groups: dict[torch.Size, list[int]] = {}
    for i, frame in enumerate(frames):
        groups.setdefault(frame.shape, []).append(i)
    for members in groups.values():
        yield [ids[i] for i in members], torch.stack([frames[i] for i in members])


def _encode(encoder: FrameEncoder, frames: Tensor) -> Tensor:
    latents = encoder.encode(frames.unsqueeze(1))
    expected = (len(frames), 1, encoder.latent.tokens, encoder.latent.width)
    if tuple(latents.shape) != expected:
        raise ShapeError(
            expected=f"latents {expected} [b t n d] from the encoder",
            got=f"{tuple(latents.shape)}",
            fix="Correct the encoder or its LatentSpec.",
        )
    return latents.squeeze(1)


def _check_match(encoder: FrameEncoder, store: LatentStore) -> None:
    if encoder.latent.kind != "frame":
        raise ShapeError(
            expected="an encoder with one latent a frame",
            got=f"kind '{encoder.latent.kind}'",
            fix="Use extract_pairs for encoders of pairs and clips.",
        )
    check_store(store, encoder.fingerprint, encoder.latent)


def check_store(store: LatentStore, fingerprint: str, latent: LatentSpec) -> None:
    """Raise StoreError unless the store is one of this encoder's latents."""
    if (fingerprint, latent) != (store.fingerprint, store.latent):
        raise StoreError(
            expected=f"a store of encoder {fingerprint} with {latent}",
            got=f"{store.fingerprint} with {store.latent}",
            fix="Open the store with the encoder's own fingerprint and latent.",
        )


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
        found = _encode_extract_pairs(encoder, pairs, named, frames)
        writer.add(pairs, found.latents, found.codes)
    return aside


def _encode_extract_pairs(
    encoder: LatentEncoder, pairs: Sequence[str], named: dict[str, FramePair], frames: dict[str, Tensor]
) -> PairLatents:
    place = {frame: row for row, frame in enumerate(_frames(pairs, named))}
    index = torch.tensor([[place[frame] for frame in named[pair]] for pair in pairs])
    return encode_pairs(encoder, torch.stack([frames[frame] for frame in place]), index)


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
        for group in _same_size_latent_windows(batch, windows, named, image):
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


def _same_size_latent_windows(
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
