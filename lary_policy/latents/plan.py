"""How the latents of each kind of encoder are made and kept: of frames, or of pairs of frames."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lary_policy.console import OnProgress
from lary_policy.data import ClipRow, ClipTable, PairTable
from lary_policy.encoders import CodebookHealth, LatentEncoder, codebook_health, pair_spec
from lary_policy.errors import DatasetError, FrameFormatError, StoreError
from lary_policy.frames import Frame, VideoFrame, clip_id, decode_frames, pair_id
from lary_policy.latents.bank import Bank, RamBudget, load_bank
from lary_policy.latents.encode import SHARD_FRAMES, ExtractReport, ShardWriter, extract, extract_pairs
from lary_policy.latents.store import LatentStore
from lary_policy.types import LatentSpec, Quarantined


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


def store_folder(name: str, dtype: str) -> str:
    """Return the name of a store's folder, one for each dtype; a plain name means float16."""
    return name if dtype == "float16" else f"{name}-{dtype}"


def extract_tables(
    tables: Sequence[PairTable],
    goals: PairTable,
    encoder: LatentEncoder,
    store: LatentStore,
    *,
    batch_size: int,
    decode_threads: int,
    on_progress: OnProgress,
) -> ExtractReport:
    """Encode what the store lacks of the tables.

    Args:
        tables: Demonstrations that heads are trained and tested on.
        goals: Demonstrations that the closed loop follows. Their latents are only needed of frame encoders:
            encoders of pairs compare their frames with live ones.
        encoder: Any encoder.
        store: Its store.
        batch_size: Frames or pairs encoded at once.
        decode_threads: Threads that decode images.
        on_progress: Called with (done, to do).
    """
    if of_frames(encoder):
        paths = dict.fromkeys(path for table in (*tables, goals) for path in table.frame_paths())
        return extract(
            paths, encoder, store, batch_size=batch_size, decode_threads=decode_threads,
            on_progress=on_progress,
        )  # fmt: skip
    pairs = dict.fromkeys(pair for table in tables for pair in table.frame_pairs())
    return extract_pairs(
        pairs, encoder, store, batch_size=batch_size, decode_threads=decode_threads, on_progress=on_progress
    )


def health_of(encoder: LatentEncoder, store: LatentStore, report: ExtractReport) -> CodebookHealth | None:
    """Return how the codes of an extraction use the encoder's codebook; None for an encoder without one."""
    codebook = encoder.spec.codebook
    if codebook is None:
        return None
    stored = [pair for pair in report.ids if store.contains(pair)]
    return codebook_health(store.read_codes(stored), codebook[0])


Named = tuple[ClipRow, tuple[str, ...]]  # a clip and the ids of what is stored of it, in order


def frames_of(row: ClipRow) -> tuple[Frame, ...]:
    """Return the frames of a clip that encoders see."""
    return row.stored or tuple(VideoFrame(row.path, index, row.clamp) for index in row.indices)


def names_of(row: ClipRow, table: ClipTable, kind: str) -> tuple[str, ...]:
    """Return the ids of what an encoder of this kind makes of a clip: t frames, t - 1 pairs, or one clip.

    Raises:
        FrameFormatError: The file is missing or cannot be read.
    """
    frames = table.frame_ids(row)
    if kind == "frame":
        return frames
    if kind == "pair":
        return tuple(pair_id(*two) for two in itertools.pairwise(frames))
    return (clip_id(frames),)


def encode_clips(encoder: LatentEncoder, frames: Tensor) -> Tensor:
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


def clip_latent(encoder: LatentEncoder, frames: int) -> LatentSpec:
    """Return the shape of the latent of a clip of t frames: the tokens of all its time steps together.

    A clip of grey frames is encoded to find out how many steps there are.
    """
    px = encoder.spec.image_px
    steps = encode_clips(encoder, torch.full((1, frames, px, px, 3), 127, dtype=torch.uint8)).shape[1]
    latent = encoder.latent
    grid = None if latent.grid is None else (steps * latent.grid[0], *latent.grid[1:])
    return replace(latent, tokens=steps * latent.tokens, grid=grid)


def extract_clips(
    tables: Sequence[ClipTable],
    encoder: LatentEncoder,
    store: LatentStore,
    *,
    batch_size: int = 4,
    on_progress: OnProgress | None = None,
) -> ExtractReport:
    """Encode each clip that the store lacks as a whole, with an encoder of clips; start again to continue.

    Args:
        tables: The clips.
        encoder: An encoder of kind `clip`.
        store: Its store, of the shape `clip_latent`.
        batch_size: Clips encoded at once.
        on_progress: Called with (clips done, clips to encode).

    Raises:
        StoreError: A latent is not finite, or the disk is full.
    """
    start, spent = time.perf_counter(), 0.0
    rows: dict[str, ClipRow] = {}
    aside: list[Quarantined] = []
    for table in tables:
        for row in table.rows:
            try:
                rows.setdefault(names_of(row, table, "clip")[0], row)
            except FrameFormatError as error:
                aside.append(Quarantined(table.item(row), str(error), "extract"))
    absent = store.missing(rows)
    writer = ShardWriter(store, SHARD_FRAMES)
    for first in range(0, len(absent), batch_size):
        clips = _decode({name: rows[name] for name in absent[first : first + batch_size]}, aside)
        for names in _by_size(clips):
            began = time.perf_counter()
            latents = encode_clips(encoder, torch.stack([clips[name] for name in names])).flatten(1, 2)
            spent += time.perf_counter() - began
            writer.add(names, latents)
        if on_progress is not None:
            on_progress(min(first + batch_size, len(absent)), len(absent))
    writer.flush()
    return ExtractReport(
        requested=sum(len(table) for table in tables),
        unique=len(rows),
        encoded=writer.written,
        reused=len(rows) - len(absent),
        quarantined=tuple(aside),
        seconds=time.perf_counter() - start,
        encode_seconds=spent,
        unit="clip",
        ids=tuple(rows),
    )


def _decode(rows: dict[str, ClipRow], aside: list[Quarantined]) -> dict[str, Tensor]:
    """Decode clips to uint8 `[t h w 3]`; those that cannot be are set aside."""
    clips = {}
    for name, row in rows.items():
        images = decode_frames(frames_of(row))
        errors = [image for image in images if isinstance(image, FrameFormatError)]
        if errors:
            aside.append(Quarantined(f"{row.csv}:{row.line}", str(errors[0]), "extract"))
            continue
        clips[name] = torch.stack([image for image in images if isinstance(image, Tensor)])
    return clips


def _by_size(clips: dict[str, Tensor]) -> list[list[str]]:
    groups: dict[torch.Size, list[str]] = {}
    for name, frames in clips.items():
        groups.setdefault(frames.shape, []).append(name)
    return list(groups.values())


def load_clips(
    table: ClipTable, store: LatentStore, budget: RamBudget | None = None
) -> tuple[Bank, Tensor, Tensor, list[Quarantined]]:
    """Gather the latents of a clip table, in memory as far as the budget has room for them.

    Returns:
        Bank `[F n d]`, index of each usable row `[N t 1]`, the usable rows `[N]`, and those set aside.

    Raises:
        StoreError: A good clip is not in the store: extract first.
        DatasetError: Not one row is usable.
    """
    place: dict[str, int] = {}
    index: list[list[list[int]]] = []
    kept: list[int] = []
    aside: list[Quarantined] = []
    absent: list[str] = []
    for number, row in enumerate(table.rows):
        try:
            names = names_of(row, table, store.latent.kind)
            if not all(store.contains(name) for name in names):
                table.read_frames(row)
                absent.append(table.item(row))
                continue
        except FrameFormatError as error:
            aside.append(Quarantined(table.item(row), str(error), "load_clips"))
            continue
        kept.append(number)
        index.append([[place.setdefault(name, len(place))] for name in names])
    if absent:
        raise StoreError(
            expected=f"latents of all good clips of {table.source.name} in {store.root}",
            got=f"{len(absent)} clips without, for example {absent[0]}",
            fix="Run `lary extract` for this encoder and source first.",
        )
    if not kept:
        reason = aside[0].reason if aside else "no rows"
        raise DatasetError(
            expected=f"at least one clip of {table.source.name} that can be decoded",
            got=f"{len(aside)} set aside; for example: {reason}",
            fix="Run `lary data verify` for the whole list.",
        )
    return load_bank(store, tuple(place), budget), torch.tensor(index), torch.tensor(kept), aside
