"""Latents of a pair table in memory: each frame once, and where each pair finds its frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lary_policy.data.frames import decode_frame, frame_id
from lary_policy.data.pairs import PairTable
from lary_policy.data.store import LatentStore
from lary_policy.errors import DatasetError, FrameFormatError, StoreError
from lary_policy.types import Quarantined


@dataclass(frozen=True, eq=False)
class LatentTable:
    """Latents of the usable rows of a `PairTable`.

    Attributes:
        bank: Latents of the F unique frames, `[F n d]` in the store's dtype.
        index: Place in the bank of each usable row's source and target frame per camera, int64 `[N 2 c]`.
        kept: Rows of the `PairTable` that are usable, int64 `[N]`: `pairs.actions()[kept]` fits `index`.
        quarantined: Rows left out because one of their images cannot be decoded.
    """

    bank: Tensor
    index: Tensor
    kept: Tensor
    quarantined: tuple[Quarantined, ...]

    def __len__(self) -> int:
        return len(self.index)


def load_latents(pairs: PairTable, store: LatentStore) -> LatentTable:
    """Gather the latents of all frames of a pair table.

    Raises:
        StoreError: A good frame is not in the store (extract first), or a shard is damaged.
        DatasetError: Not one row is usable.
    """
    ids, damaged = _identify(pairs, store)
    place: dict[str, int] = {}
    index: list[list[list[int]]] = []
    kept: list[int] = []
    quarantined: list[Quarantined] = []
    for number, row in enumerate(pairs.rows):
        bad = [p for p in (*row.src_frames, *row.tgt_frames) if p in damaged]
        if bad:
            item = f"{pairs.source.name}:{row.line}"
            quarantined.append(Quarantined(item, damaged[bad[0]], "load_latents"))
            continue
        kept.append(number)
        sides = (row.src_frames, row.tgt_frames)
        index.append([[place.setdefault(ids[p], len(place)) for p in side] for side in sides])
    if not kept:
        reason = quarantined[0].reason if quarantined else "no rows"
        raise DatasetError(
            expected=f"at least one row of {pairs.source} with decodable images",
            got=f"{len(quarantined)} rows set aside; for example: {reason}",
            fix="Run `lary data verify` for the whole list.",
        )
    return LatentTable(
        bank=store.read(tuple(place)),
        index=torch.tensor(index, dtype=torch.int64),
        kept=torch.tensor(kept, dtype=torch.int64),
        quarantined=tuple(quarantined),
    )


def _identify(pairs: PairTable, store: LatentStore) -> tuple[dict[Path, str], dict[Path, str]]:
    """Return the id of each stored frame and the reason for each one that cannot be decoded."""
    ids: dict[Path, str] = {}
    damaged: dict[Path, str] = {}
    absent: list[Path] = []
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
    if absent:
        raise StoreError(
            expected=f"latents of all good frames of {pairs.source.name} in {store.root}",
            got=f"{len(absent)} frames without, for example {absent[0]}",
            fix="Run `lary extract` for this encoder and dataset first.",
        )
    return ids, damaged
