"""Which windows of frames a table needs of a kind of encoder, and the store they are kept in."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from lary_policy.console import OnProgress, console
from lary_policy.data import ClipRow, ClipTable, PairTable
from lary_policy.data.larybench import CLIP_FRAMES
from lary_policy.encoders import (
    CodebookHealth,
    LatentEncoder,
    codebook_health,
    encode_pairs,
    layers_together,
    pair_spec,
)
from lary_policy.errors import FrameFormatError, LaryPolicyError, ShapeError, StoreError
from lary_policy.frames import Frame, clip_id, pair_id
from lary_policy.latents.encode import (
    ALL,
    ExtractReport,
    Share,
    Window,
    WindowEncoder,
    WindowKind,
    encode_windows,
)
from lary_policy.latents.places import Place
from lary_policy.latents.store import LatentStore
from lary_policy.paths import safe_name
from lary_policy.types import LatentKind, LatentSpec


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


BATCH_SIZE = 64  # frames or pairs encoded at once
CLIP_SHARE = 16  # a whole clip takes the memory of so many frames: its frames see each other


def good_batch_size(device: str) -> int:
    """Return how many frames or pairs are encoded at once: on a CPU few enough for its caches.

    EfficientNet-Lite0 takes twice the time a frame with 64 of 112 px as with 16, DINOv2-S a tenth more.
    """
    return 16 if device == "cpu" else BATCH_SIZE


def of_frames(encoder: LatentEncoder) -> bool:
    """Tell whether an encoder has a latent for each frame; others have one for two frames."""
    return encoder.latent.kind == "frame"


def stored_latent(encoder: LatentEncoder) -> LatentSpec:
    """Return the shape of what is stored and given to heads: the latent of a frame, or of two frames."""
    return encoder.latent if of_frames(encoder) else pair_spec(encoder)


def store_dtype(setting: str, protocol: str, encoder_dtype: str) -> str:
    """Return the dtype that latents are stored in.

    Heads are trained on float16 latents and get float32 ones in the closed loop. Measured on normalised
    tokens of width 384, that changes their answers by 3e-4 (MLP) and 1.3e-4 (attentive) of their norm;
    computing in bfloat16 changes them by 8e-3 and 5e-3.

    Args:
        setting: One of `LATENTS_DTYPES`.
        protocol: `lary` keeps float32, as the reference's files do.
        encoder_dtype: What the encoder computes in; float16 and bfloat16 hold its outputs as they are.
    """
    if setting != "auto":
        return setting
    if protocol == "lary":
        return "float32"
    return "float16" if encoder_dtype == "float32" else encoder_dtype


def store_path(folder: Path, name: str, fingerprint: str, *, clips: bool, dtype: str) -> Path:
    """Return the folder of a store below that of all stores.

    Args:
        folder: Folder of all stores.
        name: Name of the encoder.
        fingerprint: Its fingerprint.
        clips: Whether it holds whole clips: encoders of clips have a latent of another shape for two frames.
        dtype: Dtype of the latents; a plain name means float16.
    """
    ends = ("-clips" if clips else "") + ("" if dtype == "float16" else f"-{dtype}")
    return folder / f"{safe_name(name)}-{fingerprint}{ends}"


def open_store(
    folder: Path, encoder: LatentEncoder, *, clips: bool, dtype: str, name: str | None = None,
    remote: Place | None = None,
) -> LatentStore:  # fmt: skip
    """Open the latents of an encoder, shared by all sources and runs that use the folder.

    Args:
        folder: Folder of all stores.
        encoder: Whose latents.
        clips: Whether of whole clips; only encoders of kind `clip` have them.
        dtype: Dtype of the latents.
        name: How the encoder was named; its registry name by default.
        remote: Place of all stores that `folder` mirrors.

    Returns:
        The store. Where something else lies in its place (latents of another shape, written by another
        version; a damaged `store.json`), that is moved aside and the store is empty.

    Raises:
        StoreError: A remote place cannot be reached, or holds something else.
    """
    latent = clip_latent(encoder, CLIP_FRAMES) if clips else stored_latent(encoder)
    root = store_path(folder, name or encoder.spec.name, encoder.fingerprint, clips=clips, dtype=dtype)
    there = None if remote is None else remote / root.name
    try:
        return LatentStore(root, encoder.fingerprint, latent, dtype=dtype, packed=True, remote=there)
    except StoreError as error:
        if there is not None:
            raise
        places = (root.with_name(f"{root.name}.old{number}") for number in itertools.count())
        aside = next(place for place in places if not place.exists())
        root.rename(aside)
        console.print(f"    {root.name}: encoded anew, what was there is now {aside.name} ({error})")
        return LatentStore(root, encoder.fingerprint, latent, dtype=dtype, packed=True)


def store_is_whole(path: Path, at_least: int, remote: Place | None = None) -> bool:
    """Tell whether a `store_path` holds so many latents and no shard disappeared; loads no encoder.

    A damaged shard is deleted by the user, as the error that names it says, and is then missing here.
    """
    if remote is None and not path.is_dir():
        return False
    try:
        store = LatentStore.open(path, None if remote is None else remote / path.name)
    except LaryPolicyError:
        return False
    ours = [
        store_path(path.parent, "", store.fingerprint, clips=clips, dtype=store.dtype).name
        for clips in (True, False)
    ]
    return path.name.endswith(tuple(ours)) and not store.quarantined and len(store) >= at_least


def kind_of(latent: LatentKind, table: PairTable | ClipTable) -> WindowKind:
    """Return the windows that an encoder with this kind of latent makes of a table's rows."""
    if latent == "frame":
        return FRAMES
    return CLIPS if latent == "clip" and isinstance(table, ClipTable) else PAIRS


def seen_of(table: PairTable | ClipTable, place: int) -> tuple[Frame, ...]:
    """Return the frames that a row is about: those of a clip, or source and target of the first camera."""
    row = table.rows[place]
    return row.frames() if isinstance(row, ClipRow) else (row.src_frames[0], row.tgt_frames[0])


def row_windows(table: PairTable | ClipTable, kind: WindowKind) -> Iterator[list[list[Window]]]:
    """Yield the windows `[t][c]` of each row, whose latents a head sees as t time steps of c cameras.

    Of a pair of frames they are its source and target frames, or, where windows are pairs, (frame before,
    source) and (source, target). Of a clip they are its frames, their pairs of neighbours, or all of it.
    """
    if isinstance(table, ClipTable):
        for frames in (row.frames() for row in table.rows):
            if kind is CLIPS:
                yield [[frames]]
            else:
                yield [[two] for two in (itertools.pairwise(frames) if kind is PAIRS else zip(frames))]
        return
    for row, before in zip(table.rows, table.frames_before(), strict=True):
        src, tgt = row.src_frames, row.tgt_frames
        sides = (
            [zip(before, src, strict=True), zip(src, tgt, strict=True)]
            if kind is PAIRS
            else [zip(src), zip(tgt)]
        )
        yield [list(side) for side in sides]


def encode_tables(
    tables: Sequence[PairTable | ClipTable],
    encoder: LatentEncoder,
    store: LatentStore,
    *,
    extra_frames: Sequence[PairTable] = (),
    batch_size: int = BATCH_SIZE,
    threads: int = 1,
    share: Share = ALL,
    on_progress: OnProgress | None = None,
    also: Sequence[tuple[LatentEncoder, LatentStore]] = (),
    cluster: Callable[..., ExtractReport] | None = None,
) -> ExtractReport:
    """Encode what the store lacks of the tables; start again to continue.

    Args:
        tables: What heads are trained and tested on; all of pairs or all of clips.
        encoder: Any encoder.
        store: Its store, see `open_store`.
        extra_frames: Tables of which only frames are needed, and only by encoders of frames: encoders of
            pairs compare the frames that the closed loop follows with live ones.
        batch_size: Frames or pairs encoded at once.
        threads: Threads that decode images, and that encode on a CPU, see `encode_windows`.
        share: Which part of them, see `encode_windows`.
        on_progress: Called with (done, to do).
        also: Encoders of frames that differ from the first one by their layer only, with their stores: one
            pass makes the latents of all, see `layers_together`.
        cluster: `encode_on_cluster` with what it needs besides, instead of this process; takes the whole
            share, and one encoder at a time.

    Raises:
        StoreError: The store belongs to another encoder, a latent is not finite, or the disk is full;
            finished shards are kept.
        ShapeError: Tables of pairs and of clips for an encoder of clips.
    """
    kinds = list(dict.fromkeys(kind_of(encoder.latent.kind, table) for table in tables))
    if len(kinds) != 1:
        raise ShapeError(
            expected="tables of pairs or tables of clips",
            got=f"windows of {len(kinds)} kinds ({', '.join(kind.unit for kind in kinds) or 'no tables'})",
            fix="Encode tables of pairs and of clips into stores of their own.",
        )
    needed = (*tables, *extra_frames) if kinds == [FRAMES] else tables
    rows = (row for table in needed for row in row_windows(table, kinds[0]))
    windows = (window for row in rows for step in row for window in step)
    size = max(1, batch_size // CLIP_SHARE) if kinds == [CLIPS] else batch_size
    how: dict[str, Any] = {"batch_size": size, "on_progress": on_progress}
    if cluster is not None:
        return cluster(windows, kinds[0], encoder, store, **how)
    how |= {"threads": threads, "share": share}
    if not also:
        return encode_windows(windows, kinds[0], encoder, store, **how)
    with layers_together([encoder, *(one for one, _ in also)]) as encode:

        def together(_: WindowEncoder, frames: Tensor, places: Tensor) -> tuple[Tensor, ...]:
            return tuple(one.flatten(1, 2) for one in encode(frames.unsqueeze(1)))

        kind = replace(kinds[0], encode=together)
        return encode_windows(windows, kind, encoder, store, also=[one for _, one in also], **how)


def health_of(encoder: LatentEncoder, store: LatentStore, report: ExtractReport) -> CodebookHealth | None:
    """Return how the codes of an extraction use the encoder's codebook; None for an encoder without one."""
    codebook = encoder.spec.codebook
    if codebook is None:
        return None
    stored = [pair for pair in report.ids if store.contains(pair)]
    return codebook_health(store.read_codes(stored), codebook[0])
