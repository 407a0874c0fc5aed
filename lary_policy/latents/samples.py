"""Rows of a table and their latents: each latent once in a bank, and where each row finds its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lary_policy.data import ClipTable, PairTable
from lary_policy.errors import DatasetError, FrameFormatError, StoreError
from lary_policy.frames import Frame, decode_frames
from lary_policy.latents.bank import Bank, RamBudget, load_bank
from lary_policy.latents.encode import Window, WindowKind, identify
from lary_policy.latents.plan import BATCH_SIZE, FRAMES, PAIRS, kind_of, row_windows
from lary_policy.latents.store import LatentStore
from lary_policy.types import Quarantined

_PLURALS = {"frame": "frames", "pair": "pairs of frames", "clip": "clips"}


@dataclass(frozen=True, eq=False)
class LatentTable:
    """Latents of the usable rows of a table.

    Of a `PairTable` and a frame encoder, `index` points to each row's source and target frame; of an encoder
    of pairs or clips, to what changed in the chunk up to the source frame, and to what changed between source
    and target frame. Of a `ClipTable` it points to the latents of the clip's time steps.

    Attributes:
        bank: The F different latents (or frames), `[F n d]` in the store's dtype, in memory or on disk.
        index: Place in the bank of each usable row's latents, int64 `[N t c]` for t steps of c cameras.
        kept: Rows of the table that are usable, int64 `[N]`: `pairs.actions()[kept]` fits `index`.
        quarantined: Rows left out because one of their images or clips cannot be used.
        of_pairs: Whether it is a `PairTable` with latents of pairs.
    """

    bank: Bank
    index: Tensor
    kept: Tensor
    quarantined: tuple[Quarantined, ...]
    of_pairs: bool = False

    def __len__(self) -> int:
        return len(self.index)

    def change(self) -> Tensor:
        """Return the index `[N t c]` of what source and target frame, their pair, or a clip tell."""
        return self.index[:, 1:] if self.of_pairs else self.index

    def present(self) -> Tensor:
        """Return the index `[N 1 c]` of what is known at the source frame: it, or the pair up to it."""
        return self.index[:, :1]


def load_latents(
    table: PairTable | ClipTable,
    store: LatentStore,
    budget: RamBudget | None = None,
    *,
    time_steps: int | None = None,
) -> LatentTable:
    """Gather the latents of a table's rows: of their frames, pairs or clips, as the store has them.

    Args:
        table: The rows.
        store: Where their latents are.
        budget: Memory for them; they stay on disk where it has too little. None for all in memory.
        time_steps: Into how many time steps a latent is split whose tokens are those of several, one after
            the other: bank `[F*t' n/t' d]`, index `[N t' 1]`. None for none.

    Raises:
        StoreError: A good frame, pair or clip is not in the store (extract first), or a shard is damaged.
        DatasetError: Not one row is usable.
    """
    kind = kind_of(store.latent.kind, table)
    rows = list(row_windows(table, kind))
    names, reasons = _name(dict.fromkeys(_flat(rows)), kind, table, store)
    found = _gather(table, rows, names, reasons, lambda ids: load_bank(store, ids, budget), kind)
    return found if time_steps is None else _in_steps(found, time_steps)


def load_frames(pairs: PairTable) -> LatentTable:
    """Decode all frames of a pair table: a `LatentTable` whose bank holds uint8 frames `[F h w 3]`.

    Raises:
        DatasetError: Not one row is usable, or frames differ in size.
    """
    rows = list(row_windows(pairs, FRAMES))
    frames = [frame for (frame,) in dict.fromkeys(_flat(rows))]
    images: dict[Frame, Tensor] = {}
    bad: dict[Window, str] = {}
    for frame, image in _decoded(frames):
        if isinstance(image, FrameFormatError):
            bad[(frame,)] = str(image)
        else:
            images[frame] = image
    sizes = {tuple(image.shape) for image in images.values()}
    if len(sizes) > 1:
        raise DatasetError(
            expected=f"frames of one size in {pairs.source}",
            got=", ".join(str(size) for size in sorted(sizes)),
            fix="Collect the demonstrations again, all with the same image_px.",
        )
    names: dict[Window, Frame] = {(frame,): frame for frame in images}
    return _gather(pairs, rows, names, bad, lambda kept: torch.stack([images[f] for f in kept]), FRAMES)


def _flat(rows: Iterable[list[list[Window]]]) -> Iterable[Window]:
    return (window for row in rows for step in row for window in step)


def _gather[K](
    table: PairTable | ClipTable,
    rows: Iterable[list[list[Window]]],
    names: Mapping[Window, K],
    reasons: Mapping[Window, str],
    read: Callable[[tuple[K, ...]], Bank],
    kind: WindowKind,
) -> LatentTable:
    """Build a table.

    Args:
        table: What the rows belong to.
        rows: The windows `[t][c]` of each row.
        names: What each window that can be used is read by.
        reasons: Why others cannot; rows that need one are set aside.
        read: From names to what they name, `[F ...]`.
        kind: What the windows are.
    """
    place: dict[K, int] = {}
    index: list[list[list[int]]] = []
    kept: list[int] = []
    quarantined: list[Quarantined] = []
    for number, row in enumerate(rows):
        bad = next((window for window in _flat([row]) if window in reasons), None)
        if bad is not None:
            item = table.item(table.rows[number])  # type: ignore[arg-type]
            quarantined.append(Quarantined(item, reasons[bad], "load_latents"))
            continue
        kept.append(number)
        index.append([[place.setdefault(names[window], len(place)) for window in step] for step in row])
    if not kept:
        reason = quarantined[0].reason if quarantined else "no rows"
        raise DatasetError(
            expected=f"at least one row of {table.source} that can be decoded",
            got=f"{len(quarantined)} rows set aside; for example: {reason}",
            fix="Run `lary data verify` for the whole list.",
        )
    return LatentTable(
        bank=read(tuple(place)),
        index=torch.tensor(index, dtype=torch.int64),
        kept=torch.tensor(kept, dtype=torch.int64),
        quarantined=tuple(quarantined),
        of_pairs=kind is PAIRS and isinstance(table, PairTable),
    )


def _name(
    windows: Iterable[Window], kind: WindowKind, table: PairTable | ClipTable, store: LatentStore
) -> tuple[dict[Window, str], dict[Window, str]]:
    """Return the id of each stored window and the reason for each one that cannot be encoded."""
    ids, unreadable = identify(frame for window in windows for frame in window)
    names: dict[Window, str] = {}
    reasons: dict[Window, str] = {}
    absent: list[Window] = []
    for window in windows:
        bad = next((unreadable[frame] for frame in window if frame in unreadable), None)
        if bad is not None:
            reasons[window] = bad
            continue
        names[window] = kind.name([ids[frame] for frame in window])
        if not store.contains(names[window]):
            absent.append(window)
    looks = {
        frame: str(image) if isinstance(image, FrameFormatError) else list(image.shape)
        for frame, image in _decoded(dict.fromkeys(frame for window in absent for frame in window))
    }
    lacking = []
    for window in absent:
        reason = _why_absent([looks[frame] for frame in window])
        if reason is None:
            lacking.append(window)
        else:
            reasons[window] = reason
    if lacking:
        raise StoreError(
            expected=f"latents of all good {_PLURALS[kind.unit]} of {table.source.name} in {store.root}",
            got=f"{len(lacking)} {_PLURALS[kind.unit]} without, for example {lacking[0][-1]}",
            fix="Run `lary extract` for this encoder and dataset first.",
        )
    return names, reasons


def _why_absent(looks: Sequence[str | list[int]]) -> str | None:
    """Return why a window of frames with these shapes or errors has no latent; None for no reason."""
    error = next((look for look in looks if isinstance(look, str)), None)
    other = next((look for look in looks if look != looks[0]), None)
    return error if error or other is None else f"{other} after a frame of {looks[0]}"


def _decoded(frames: Iterable[Frame]) -> Iterator[tuple[Frame, Tensor | FrameFormatError]]:
    """Yield frames with their images or errors; those of one file are decoded together, a batch at a time."""
    for batch in itertools.batched(frames, BATCH_SIZE):
        yield from zip(batch, decode_frames(batch), strict=True)


def _in_steps(table: LatentTable, steps: int) -> LatentTable:
    """Split latents `[F t'*n d]` into their time steps."""
    bank = table.bank
    if isinstance(bank, Tensor):
        bank = bank.view(len(bank) * steps, bank.shape[1] // steps, bank.shape[2])
    else:
        bank = bank.in_steps(steps)
    index = (table.index[:, :, None] * steps + torch.arange(steps)[:, None]).flatten(1, 2)
    return LatentTable(bank, index, table.kept, table.quarantined, table.of_pairs)
