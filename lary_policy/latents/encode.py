"""The one loop from windows of frames to latents in a store: decode ahead, encode, write beside it.

A window is a tuple of frames. One frame, a pair, a clip and a policy's history are windows of one shape each:
a `WindowKind` says how windows are named and what an encoder makes of them; everything else is common.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from lary_policy.console import OnProgress
from lary_policy.encoders import encode_stream
from lary_policy.errors import FrameFormatError, ShapeError, StoreError
from lary_policy.frames import Frame, decode_frames, frame_id
from lary_policy.latents.store import LatentStore
from lary_policy.latents.writer import SHARD_ROWS, ShardWriter
from lary_policy.types import LatentSpec, Quarantined

Window = tuple[Frame, ...]
# From uint8 frames [m h w 3] and the places [p t] of each window's frames among them to latents [p n d] and,
# of encoders with a codebook, codes [p m].
EncodeGroup = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


class WindowEncoder(Protocol):
    """The part of `LatentEncoder` that the loop relies on."""

    fingerprint: str
    latent: LatentSpec

    def encode(self, frames: Tensor) -> Tensor:
        """Map uint8 `[b t h w 3]` to latents `[b t' n d]`."""
        ...


@dataclass(frozen=True)
class WindowKind:
    """One shape of window.

    Attributes:
        unit: What a window is called: `frame`, `pair`, `clip` or `window`.
        name: From the ids of a window's frames to its own (64 hex digits).
        encode: From an encoder, the frames `[m h w 3]` of several windows and the places of each window's
            among them `[p t]`, to latents `[p n d]` and, of encoders with a codebook, codes `[p m]`.
        latent: From an encoder to what is stored of a window, where that does not depend on its length;
            ShapeError if the encoder has no latents of this kind.
        whole: Whether a window is one input, counted and set aside as a whole, not frame by frame.
    """

    unit: str
    name: Callable[[Sequence[str]], str]
    encode: Callable[[WindowEncoder, Tensor, Tensor], tuple[Tensor, ...]]
    latent: Callable[[WindowEncoder], LatentSpec] | None = None
    whole: bool = False


@dataclass(frozen=True)
class ExtractReport:
    """What one extraction did.

    Attributes:
        requested: Different inputs asked for: whole clips of a clip encoder, otherwise frames.
        unique: Different windows among the readable ones.
        encoded: Those encoded now.
        reused: Those that the store held already.
        quarantined: Frames that could not be read or decoded, and windows with frames of several sizes.
        seconds: Wall time.
        unit: What a window is: `frame`, `pair`, `clip` or `window`.
        ids: The ids of the windows.
    """

    requested: int
    unique: int
    encoded: int
    reused: int
    quarantined: tuple[Quarantined, ...]
    seconds: float
    unit: str = "frame"
    ids: tuple[str, ...] = ()


def encode_windows(
    windows: Iterable[Window],
    kind: WindowKind,
    encoder: WindowEncoder,
    store: LatentStore,
    *,
    batch_size: int = 32,
    shard_rows: int = SHARD_ROWS,
    decode_threads: int = 1,
    on_progress: OnProgress | None = None,
) -> ExtractReport:
    """Encode every window that the store lacks, once each however often it is there; start again to continue.

    A frame that stands in several windows of a batch is decoded once, and goes through the per-frame part of
    a pair encoder once. On a GPU, transfers and computation overlap; shards are written meanwhile.

    Args:
        windows: The frames of each window.
        kind: What they are.
        encoder: An encoder that has latents of this kind.
        store: Store with the encoder's fingerprint and latent shape.
        batch_size: Windows encoded at once.
        shard_rows: Most windows of one shard; an interruption costs the shards that are being filled.
        decode_threads: Threads that decode the next batches meanwhile; one does 2,000 112 px frames a second.
        on_progress: Called with (windows done, windows to encode).

    Raises:
        StoreError: The store belongs to another encoder, a latent is not finite, or the disk is full;
            finished shards are kept.
        ShapeError: The encoder has no latents of this kind, or not of the stated shape.
    """
    start = time.perf_counter()
    _check_store(store, encoder, kind)
    wanted = dict.fromkeys(windows)
    frames = dict.fromkeys(frame for window in wanted for frame in window)
    ids, reasons = identify(frames)
    named: dict[str, Window] = {}
    aside: dict[str, str] = {}
    for window in wanted:
        bad = {str(frame): reasons[frame] for frame in window if frame in reasons}
        if not bad:
            named.setdefault(kind.name([ids[frame] for frame in window]), window)
        aside.update(itertools.islice(bad.items(), 1 if kind.whole else None))
    absent = store.missing(named)
    decoder = _Decoder({name: named[name] for name in absent}, ids, aside, whole=kind.whole)
    told = done = 0
    with (
        ShardWriter(store, shard_rows) as writer,
        closing(decoder.groups(batch_size, decode_threads)) as groups,
    ):
        for names, outputs in encode_stream(_checked(kind, encoder, store), groups):
            writer.add(names, *outputs)
            done += len(names)
            told = _tell(on_progress, done + decoder.left_out, len(absent), told)
    _tell(on_progress, done + decoder.left_out, len(absent), told)
    return ExtractReport(
        requested=len(wanted) if kind.whole else len(frames),
        unique=len(named),
        encoded=writer.written,
        reused=len(named) - len(absent),
        quarantined=tuple(Quarantined(item, reason, "extract") for item, reason in aside.items()),
        seconds=time.perf_counter() - start,
        unit=kind.unit,
        ids=tuple(named),
    )


def _tell(on_progress: OnProgress | None, done: int, total: int, told: int) -> int:
    if on_progress is not None and done != told:
        on_progress(done, total)
    return done


def identify(frames: Iterable[Frame]) -> tuple[dict[Frame, str], dict[Frame, str]]:
    """Return the id of each frame that can be read, and the reason for each one that cannot."""
    ids: dict[Frame, str] = {}
    reasons: dict[Frame, str] = {}
    for frame in dict.fromkeys(frames):
        try:
            ids[frame] = frame_id(frame)
        except FrameFormatError as error:
            reasons[frame] = str(error)
    return ids, reasons


Group = tuple[list[str], tuple[Tensor, Tensor]]  # names of windows, their frames [m h w 3], places [p t]


@dataclass
class _Decoder:
    """Decodes windows in threads, ahead of who encodes them.

    Attributes:
        windows: By name.
        ids: Ids of their frames.
        aside: Filled with what cannot be used, and why.
        whole: Whether of a window only the first frame that cannot be decoded is set aside.
        left_out: Windows that could not be used so far.
    """

    windows: Mapping[str, Window]
    ids: Mapping[Frame, str]
    aside: dict[str, str]
    whole: bool
    left_out: int = field(default=0, init=False)

    def groups(self, batch_size: int, threads: int) -> Generator[Group]:
        """Yield the windows batch by batch, those of one length and one size of image together."""
        names = iter(self.windows)
        jobs = iter(lambda: list(itertools.islice(names, batch_size)), [])
        pool = ThreadPoolExecutor(threads, "decode")
        try:
            pending = deque(pool.submit(self._decode, job) for job in itertools.islice(jobs, threads))
            while pending:
                groups, aside, left_out = pending.popleft().result()
                pending.extend(pool.submit(self._decode, job) for job in itertools.islice(jobs, 1))
                self.aside.update(aside)
                self.left_out += left_out
                yield from groups
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode(self, names: Sequence[str]) -> tuple[list[Group], dict[str, str], int]:
        """Decode a batch, each frame once; return groups, what is left out and why, and how many windows."""
        files = {self.ids[frame]: frame for name in names for frame in self.windows[name]}
        images = dict(zip(files, decode_frames(list(files.values())), strict=True))
        groups: dict[tuple[torch.Size, int], dict[str, list[str]]] = {}
        aside: dict[str, str] = {}
        for name in names:
            frames = [self.ids[frame] for frame in self.windows[name]]
            found = [images[frame] for frame in frames]
            pairs = zip(self.windows[name], found, strict=True)
            bad = {str(frame): str(image) for frame, image in pairs if isinstance(image, FrameFormatError)}
            if bad:
                aside.update(itertools.islice(bad.items(), 1 if self.whole else None))
                continue
            shapes = [image.shape for image in found if isinstance(image, Tensor)]
            other = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
            if other is not None:
                aside[name] = f"frames {frames[0][:16]} and {frames[other][:16]} have different sizes"
                continue
            groups.setdefault((shapes[0], len(frames)), {})[name] = frames
        used = sum(len(group) for group in groups.values())
        return [_stack(group, images) for group in groups.values()], aside, len(names) - used


def _stack(group: Mapping[str, list[str]], images: Mapping[str, Tensor | FrameFormatError]) -> Group:
    """Stack the different frames of windows of one size, in memory that a GPU in use can read by itself."""
    place = {frame: row for row, frame in enumerate(dict.fromkeys(itertools.chain(*group.values())))}
    found = [image for frame in place if isinstance(image := images[frame], Tensor)]
    frames = torch.empty(
        (len(found), *found[0].shape), dtype=torch.uint8, pin_memory=torch.cuda.is_initialized()
    )
    torch.stack(found, out=frames)
    return list(group), (frames, torch.tensor([[place[frame] for frame in row] for row in group.values()]))


def _checked(kind: WindowKind, encoder: WindowEncoder, store: LatentStore) -> EncodeGroup:
    """Return what encodes windows of a kind and refuses latents of another shape than the store's."""

    def encode(frames: Tensor, places: Tensor) -> tuple[Tensor, ...]:
        outputs = kind.encode(encoder, frames, places)
        expected = (len(places), store.latent.tokens, store.latent.width)
        if tuple(outputs[0].shape) != expected:
            raise ShapeError(
                expected=f"latents {expected} of {len(places)} windows from the encoder",
                got=f"{tuple(outputs[0].shape)}",
                fix="Correct the encoder or its LatentSpec.",
            )
        return outputs

    return encode


def _check_store(store: LatentStore, encoder: WindowEncoder, kind: WindowKind) -> None:
    """Raise StoreError unless the store is one of this encoder's latents of this kind."""
    latent = store.latent if kind.latent is None else kind.latent(encoder)
    if (encoder.fingerprint, latent) != (store.fingerprint, store.latent):
        raise StoreError(
            expected=f"a store of encoder {encoder.fingerprint} with {latent}",
            got=f"{store.fingerprint} with {store.latent}",
            fix="Open the store with the encoder's own fingerprint and latent.",
        )
