"""Latents of a pair table in memory: each one once, and where each row finds its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lary_policy.data import PairTable
from lary_policy.errors import DatasetError, FrameFormatError, StoreError
from lary_policy.frames import Frame, decode_frame, decode_frames, frame_id, pair_id
from lary_policy.latents.bank import Bank, RamBudget, load_bank
from lary_policy.latents.store import LatentStore
from lary_policy.types import Quarantined


@dataclass(frozen=True, eq=False)
class LatentTable:
    """Latents of the usable rows of a `PairTable`.

    Of a frame encoder, the bank holds the latents of frames and `index` points to each row's source and
    target frame. Of an encoder of pairs or clips, it holds the latents of pairs: `index` points to what
    changed in the chunk up to the source frame, and to what changed between source and target frame.

    Attributes:
        bank: Latents of the F unique frames (or pairs), `[F n d]` in the store's dtype, in memory or on disk.
        index: Place in the bank of each usable row's two latents per camera, int64 `[N 2 c]`.
        kept: Rows of the `PairTable` that are usable, int64 `[N]`: `pairs.actions()[kept]` fits `index`.
        quarantined: Rows left out because one of their images cannot be decoded.
        of_pairs: Whether the latents are those of pairs.
    """

    bank: Bank
    index: Tensor
    kept: Tensor
    quarantined: tuple[Quarantined, ...]
    of_pairs: bool = False

    def __len__(self) -> int:
        return len(self.index)

    def change(self) -> Tensor:
        """Return the index `[N t c]` of what source and target frame tell together: both, or the pair."""
        return self.index[:, 1:] if self.of_pairs else self.index

    def present(self) -> Tensor:
        """Return the index `[N 1 c]` of what is known at the source frame: it, or the pair up to it."""
        return self.index[:, :1]


def load_latents(pairs: PairTable, store: LatentStore, budget: RamBudget | None = None) -> LatentTable:
    """Gather the latents of all frames of a pair table, or of all its pairs if the store holds pairs.

    Args:
        pairs: The rows.
        store: Where their latents are.
        budget: Memory for them; they stay on disk where it has too little. None for all in memory.

    Raises:
        StoreError: A good frame is not in the store (extract first), or a shard is damaged.
        DatasetError: Not one row is usable.
    """
    of_pairs = store.latent.kind != "frame"
    ids, damaged = _identify_pairs(pairs, store) if of_pairs else _identify(pairs, store)

    def name(paths: tuple[Frame, ...]) -> str:
        return pair_id(*(ids[p] for p in paths)) if of_pairs else ids[paths[0]]

    return _gather(pairs, damaged, name, lambda ids: load_bank(store, ids, budget), of_pairs=of_pairs)


def load_frames(pairs: PairTable) -> LatentTable:
    """Decode all frames of a pair table: a `LatentTable` whose bank holds uint8 frames `[F h w 3]`.

    Raises:
        DatasetError: Not one row is usable, or frames differ in size.
    """
    frames: dict[Frame, Tensor] = {}
    damaged: dict[Frame, str] = {}
    paths = pairs.frame_paths()
    for path, image in zip(paths, decode_frames(paths), strict=True):
        if isinstance(image, FrameFormatError):
            damaged[path] = str(image)
        else:
            frames[path] = image
    sizes = {tuple(frame.shape) for frame in frames.values()}
    if len(sizes) > 1:
        raise DatasetError(
            expected=f"frames of one size in {pairs.source}",
            got=", ".join(str(size) for size in sorted(sizes)),
            fix="Collect the demonstrations again, all with the same image_px.",
        )
    return _gather(
        pairs, damaged, lambda paths: paths[0], lambda paths: torch.stack([frames[p] for p in paths])
    )


def _gather[K](
    pairs: PairTable,
    damaged: Mapping[Frame, str],
    name: Callable[[tuple[Frame, ...]], K],
    read: Callable[[tuple[K, ...]], Bank],
    *,
    of_pairs: bool = False,
) -> LatentTable:
    """Build a table.

    Args:
        pairs: The rows.
        damaged: Frames that cannot be used, with reasons; rows that need one are set aside.
        name: From the one or two frames that something belongs to, to the name it is read by.
        read: From names to what they name, `[F ...]`.
        of_pairs: Whether rows need pairs of frames instead of frames.
    """
    place: dict[K, int] = {}
    index: list[list[list[int]]] = []
    kept: list[int] = []
    quarantined: list[Quarantined] = []
    for number, (row, before) in enumerate(zip(pairs.rows, pairs.frames_before(), strict=True)):
        src, tgt = row.src_frames, row.tgt_frames
        sides = (
            [zip(before, src, strict=True), zip(src, tgt, strict=True)] if of_pairs else [zip(src), zip(tgt)]
        )
        needed = [list(side) for side in sides]  # of each latent and camera, the frames it is made of
        bad = [path for side in needed for paths in side for path in paths if path in damaged]
        if bad:
            quarantined.append(Quarantined(pairs.item(row), damaged[bad[0]], "load_latents"))
            continue
        kept.append(number)
        index.append([[place.setdefault(name(paths), len(place)) for paths in side] for side in needed])
    if not kept:
        reason = quarantined[0].reason if quarantined else "no rows"
        raise DatasetError(
            expected=f"at least one row of {pairs.source} with decodable images",
            got=f"{len(quarantined)} rows set aside; for example: {reason}",
            fix="Run `lary data verify` for the whole list.",
        )
    return LatentTable(
        bank=read(tuple(place)),
        index=torch.tensor(index, dtype=torch.int64),
        kept=torch.tensor(kept, dtype=torch.int64),
        quarantined=tuple(quarantined),
        of_pairs=of_pairs,
    )


def _identify(pairs: PairTable, store: LatentStore) -> tuple[dict[Frame, str], dict[Frame, str]]:
    """Return the id of each stored frame and the reason for each one that cannot be decoded."""
    ids: dict[Frame, str] = {}
    damaged: dict[Frame, str] = {}
    absent: list[Frame] = []
    for path in pairs.frame_paths():
        try:
            frame = frame_id(path)
            if store.contains(frame):
                ids[path] = frame
                continue
            decode_frame(path)
            absent.append(path)
        except FrameFormatError as error:
            damaged[path] = str(error)
    _require_none(absent, "frames", pairs, store)
    return ids, damaged


def _identify_pairs(pairs: PairTable, store: LatentStore) -> tuple[dict[Frame, str], dict[Frame, str]]:
    """Return the id of each frame and the reason for each one of which a pair cannot be encoded."""
    ids: dict[Frame, str] = {}
    damaged: dict[Frame, str] = {}
    for path in pairs.frame_paths():
        try:
            ids[path] = frame_id(path)
        except FrameFormatError as error:
            damaged[path] = str(error)
    sizes: dict[Frame, torch.Size] = {}
    absent: list[Frame] = []
    for pair in pairs.frame_pairs():
        if all(p in ids for p in pair) and store.contains(pair_id(*(ids[p] for p in pair))):
            continue
        for path in pair:
            try:
                if path not in damaged:
                    sizes.setdefault(path, decode_frame(path).shape)
            except FrameFormatError as error:
                damaged[path] = str(error)
        if any(path in damaged for path in pair):
            continue
        first, second = pair
        if sizes[first] == sizes[second]:
            absent.append(second)
        else:
            damaged[second] = f"{list(sizes[second])} after a frame of {list(sizes[first])}"
    _require_none(absent, "pairs of frames", pairs, store)
    return ids, damaged


def _require_none(absent: list[Frame], what: str, pairs: PairTable, store: LatentStore) -> None:
    if absent:
        raise StoreError(
            expected=f"latents of all good {what} of {pairs.source.name} in {store.root}",
            got=f"{len(absent)} {what} without, for example {absent[0]}",
            fix="Run `lary extract` for this encoder and dataset first.",
        )
