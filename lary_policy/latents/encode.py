"""The one loop from windows of frames to latents in a store: decode ahead, encode, write beside it.

A window is a tuple of frames. One frame, a pair, a clip and a policy's history are windows of one shape each:
a `WindowKind` says how windows are named and what an encoder makes of them; everything else is common.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lary_policy.console import OnProgress
from lary_policy.encoders import encode_stream
from lary_policy.errors import FrameFormatError, ShapeError, StoreError
from lary_policy.frames import Frame, decode_frames, frame_ids
from lary_policy.latents.store import LatentStore
from lary_policy.latents.writer import SHARD_ROWS, ShardWriter
from lary_policy.machine import made_ahead
from lary_policy.paths import exclusive, lock_beside
from lary_policy.types import LatentSpec, Quarantined

Window = tuple[Frame, ...]
Share = tuple[int, int]  # the number of a process, and how many encode together
ALL: Share = (0, 1)
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
        encoded: Those encoded now, by this process.
        reused: Those of its share that the store held already.
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

    def joined(self, others: Sequence[ExtractReport]) -> ExtractReport:
        """Return what several processes did together, each its share of the same windows."""
        every = (self, *others)
        return replace(
            self,
            encoded=sum(one.encoded for one in every),
            reused=sum(one.reused for one in every),
            quarantined=tuple(dict.fromkeys(aside for one in every for aside in one.quarantined)),
            seconds=max(one.seconds for one in every),
        )


def encode_windows(
    windows: Iterable[Window],
    kind: WindowKind,
    encoder: WindowEncoder,
    store: LatentStore,
    *,
    batch_size: int = 32,
    shard_rows: int = SHARD_ROWS,
    threads: int = 1,
    share: Share = ALL,
    on_progress: OnProgress | None = None,
    also: Sequence[LatentStore] = (),
) -> ExtractReport:
    """Encode every window that the store lacks, once each however often it is there; start again to continue.

    A frame that stands in several windows of a batch is decoded once, and goes through the per-frame part of
    a pair encoder once. On a GPU, transfers and computation overlap; shards are written meanwhile. Another
    process that writes into the store is waited for, and what it encoded is not encoded again.

    Args:
        windows: The frames of each window.
        kind: What they are.
        encoder: An encoder that has latents of this kind.
        store: Store with the encoder's fingerprint and latent shape.
        batch_size: Windows encoded at once.
        shard_rows: Most windows of one shard; an interruption costs the shards that are being filled.
        threads: Threads that decode the next batches meanwhile (one does 2,000 112 px frames a second), and
            as many that encode one each, where the encoder is on the CPU.
        share: Which part of the windows, if several processes encode them together: each its own shards, the
            same ones as one process would write. Whoever opens the store afterwards finds all of them.
        on_progress: Called with (windows done, windows to encode).
        also: Stores of further latents of the windows, which `kind.encode` returns instead of codes.

    Raises:
        StoreError: The store belongs to another encoder, a latent is not finite, or the disk is full;
            finished shards are kept.
        ShapeError: The encoder has no latents of this kind, or not of the stated shape.
    """
    start = time.perf_counter()
    check_store(store, encoder, kind)
    inputs = WindowInputs.of(windows, kind)
    stores = (store, *also)
    with ExitStack() as stack:
        for path in sorted(share_lock(one, share) for one in stores):  # in one order, so none waits for ever
            stack.enter_context(exclusive(path))
        writers = [stack.enter_context(ShardWriter(one, shard_rows)) for one in stores]
        for one in stores:
            one.reload()
        mine = _share(tuple(inputs.named), share, max(one.limit for one in writers), batch_size)
        lacking = [set(one.missing(mine)) for one in stores]
        absent = [name for name in mine if any(name in one for one in lacking)]
        with closing(inputs.groups(absent, batch_size, threads)) as groups:
            told = done = 0
            for names, outputs in encode_stream(checked_encode(kind, encoder, store.latent), groups, threads):
                _write(writers, lacking, names, outputs)
                done += len(names)
                told = _tell(on_progress, done + inputs.left_out, len(absent), told)
            _tell(on_progress, done + inputs.left_out, len(absent), told)
    return inputs.report(writers[0].taken, len(mine) - len(lacking[0]), time.perf_counter() - start)


def _write(
    writers: Sequence[ShardWriter], lacking: Sequence[set[str]], names: Sequence[str],
    outputs: tuple[Tensor, ...],
) -> None:  # fmt: skip
    """Give each store what it lacks of a group: the only one all outputs, of several each its own."""
    if len(writers) == 1:
        writers[0].add(names, *outputs)
        return
    for writer, absent, latents in zip(writers, lacking, outputs, strict=True):
        rows = [row for row, name in enumerate(names) if name in absent]
        if rows:
            writer.add([names[row] for row in rows], latents if len(rows) == len(names) else latents[rows])


def share_lock(store: LatentStore, share: Share = ALL) -> Path:
    """Return what is locked while one process (of each number) writes into a store."""
    return lock_beside(store.root if share == ALL else store.root.with_name(f"{store.root.name}-{share[0]}"))


def _share(names: Sequence[str], share: Share, limit: int, batch_size: int) -> list[str]:
    """Return the names of every count-th shard, the first one being `number`; shards are whole batches."""
    number, count = share
    size = whole_batches(limit, batch_size)
    return [name for place, name in enumerate(names) if place // size % count == number]


def whole_batches(limit: int, batch_size: int) -> int:
    """Return after how many windows a shard that holds at least `limit` of them ends: it is whole batches."""
    return -(-limit // batch_size) * batch_size


def _tell(on_progress: OnProgress | None, done: int, total: int, told: int) -> int:
    if on_progress is not None and done != told:
        on_progress(done, total)
    return done


def identify(frames: Iterable[Frame]) -> tuple[dict[Frame, str], dict[Frame, str]]:
    """Return the id of each frame that can be read, and the reason for each one that cannot."""
    each = tuple(dict.fromkeys(frames))
    found = list(zip(each, frame_ids(each), strict=True))
    reasons = {frame: str(name) for frame, name in found if isinstance(name, FrameFormatError)}
    return {frame: name for frame, name in found if isinstance(name, str)}, reasons


Group = tuple[list[str], tuple[Tensor, Tensor]]  # names of windows, their frames [m h w 3], places [p t]


@dataclass
class WindowInputs:
    """The windows of an extraction, decoded in threads ahead of who encodes them.

    Attributes:
        kind: What they are.
        requested: Inputs asked for.
        named: Windows whose frames could be read, by name.
        ids: Ids of their frames.
        aside: What cannot be used, and why.
        left_out: Windows that could not be decoded so far.
    """

    kind: WindowKind
    requested: int
    named: Mapping[str, Window]
    ids: Mapping[Frame, str]
    aside: dict[str, str]
    left_out: int = field(default=0, init=False)

    @classmethod
    def of(cls, windows: Iterable[Window], kind: WindowKind) -> WindowInputs:
        """Name the windows."""
        wanted = dict.fromkeys(windows)
        frames = dict.fromkeys(frame for window in wanted for frame in window)
        ids, reasons = identify(frames)
        named: dict[str, Window] = {}
        inputs = cls(kind, len(wanted) if kind.whole else len(frames), named, ids, {})
        for window in wanted:
            if not inputs.set_aside({str(frame): reasons[frame] for frame in window if frame in reasons}):
                named.setdefault(kind.name([ids[frame] for frame in window]), window)
        return inputs

    def set_aside(self, reasons: Mapping[str, str]) -> bool:
        """Remember why frames of a window cannot be used, of a whole one the first; return if any are."""
        self.aside.update(itertools.islice(reasons.items(), 1 if self.kind.whole else None))
        return bool(reasons)

    def report(self, encoded: int, reused: int, seconds: float) -> ExtractReport:
        """Say what was done."""
        return ExtractReport(
            requested=self.requested,
            unique=len(self.named),
            encoded=encoded,
            reused=reused,
            quarantined=tuple(Quarantined(item, reason, "extract") for item, reason in self.aside.items()),
            seconds=seconds,
            unit=self.kind.unit,
            ids=tuple(self.named),
        )

    def groups(self, names: Sequence[str], batch_size: int, threads: int) -> Generator[Group]:
        """Yield windows batch by batch, those of one length and one size of image together."""
        with closing(made_ahead(itertools.batched(names, batch_size), self.decode, threads)) as decoded:
            for groups, left_out in decoded:
                for reasons in left_out:
                    self.left_out += self.set_aside(reasons)
                yield from groups

    def decode(self, names: Sequence[str]) -> tuple[list[Group], list[dict[str, str]]]:
        """Decode a batch, each different frame once; return its groups, and why windows are left out."""
        files = {self.ids[frame]: frame for name in names for frame in self.named[name]}
        images = dict(zip(files, decode_frames(list(files.values())), strict=True))
        groups: dict[tuple[torch.Size, int], dict[str, list[str]]] = {}
        left_out = []
        for name in names:
            frames = [self.ids[frame] for frame in self.named[name]]
            found = dict(zip(self.named[name], (images[frame] for frame in frames), strict=True))
            shapes = [image.shape for image in found.values() if isinstance(image, Tensor)]
            if len(shapes) < len(found):
                errors = {str(f): str(i) for f, i in found.items() if isinstance(i, FrameFormatError)}
                left_out.append(errors)
            elif len(set(shapes)) > 1:
                other = next(f for f, i in found.items() if isinstance(i, Tensor) and i.shape != shapes[0])
                reason = f"frames {frames[0][:16]} and {self.ids[other][:16]} have different sizes"
                left_out.append({name: reason})
            else:
                groups.setdefault((shapes[0], len(frames)), {})[name] = frames
        return [_stack(group, images) for group in groups.values()], left_out


def _stack(group: Mapping[str, list[str]], images: Mapping[str, Tensor | FrameFormatError]) -> Group:
    """Stack the different frames of windows of one size, in memory that a GPU in use can read by itself."""
    place = {frame: row for row, frame in enumerate(dict.fromkeys(itertools.chain(*group.values())))}
    found = [image for frame in place if isinstance(image := images[frame], Tensor)]
    frames = torch.empty(
        (len(found), *found[0].shape), dtype=torch.uint8, pin_memory=torch.cuda.is_initialized()
    )
    torch.stack(found, out=frames)
    return list(group), (frames, torch.tensor([[place[frame] for frame in row] for row in group.values()]))


def checked_encode(kind: WindowKind, encoder: WindowEncoder, latent: LatentSpec) -> EncodeGroup:
    """Return what encodes windows of a kind and refuses latents of another shape than the store's."""

    def encode(frames: Tensor, places: Tensor) -> tuple[Tensor, ...]:
        outputs = kind.encode(encoder, frames, places)
        expected = (len(places), latent.tokens, latent.width)
        if tuple(outputs[0].shape) != expected:
            raise ShapeError(
                expected=f"latents {expected} of {len(places)} windows from the encoder",
                got=f"{tuple(outputs[0].shape)}",
                fix="Correct the encoder or its LatentSpec.",
            )
        return outputs

    return encode


def check_store(store: LatentStore, encoder: WindowEncoder, kind: WindowKind) -> None:
    """Raise StoreError unless the store is one of this encoder's latents of this kind."""
    latent = store.latent if kind.latent is None else kind.latent(encoder)
    if (encoder.fingerprint, latent) != (store.fingerprint, store.latent):
        raise StoreError(
            expected=f"a store of encoder {encoder.fingerprint} with {latent}",
            got=f"{store.fingerprint} with {store.latent}",
            fix="Open the store with the encoder's own fingerprint and latent.",
        )
