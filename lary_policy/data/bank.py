"""Latents that many samples point into: in memory, or on disk and read when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lary_policy.data.store import STORE_DTYPES, LatentStore


class StoredLatents:
    """Latents `[F n d]` that stay in the store's files, which the system maps into memory and out of it.

    Indexing reads the rows asked for. Several threads may do so at once.

    Args:
        store: Where they are.
        frame_ids: Id of each latent.
        steps: Time steps that each stored latent is split into: F is their number times `len(frame_ids)`.

    Raises:
        StoreError: An id is not stored.
    """

    def __init__(self, store: LatentStore, frame_ids: Sequence[str], *, steps: int = 1) -> None:
        self.dtype = STORE_DTYPES[store.dtype]
        self.shape: tuple[int, ...] = (
            len(frame_ids) * steps,
            store.latent.tokens // steps,
            store.latent.width,
        )
        self._store, self._ids, self._steps = store, frame_ids, steps
        self._digests, self._places = store.locate(frame_ids)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Size of all latents in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def in_steps(self, steps: int) -> StoredLatents:
        """Return latents of clips `[F t*n d]` as those of their t time steps, `[F*t n d]`."""
        return StoredLatents(self._store, self._ids, steps=steps)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Return the latents `[... n d]` of an int64 index `[...]`, each row read once.

        Raises:
            StoreError: A shard is damaged or gone.
        """
        flat = index.flatten().cpu()
        wanted, back = torch.unique(flat // self._steps, return_inverse=True)
        if self._steps == 1 and len(wanted) == len(flat):
            found = self._read(flat)  # nothing twice: each row goes where it belongs
        else:
            found = self._read(wanted).view(-1, self._steps, *self.shape[1:])[back, flat % self._steps]
        return found.view(*index.shape, *self.shape[1:])

    def _read(self, rows: Tensor) -> Tensor:
        latent = self._store.latent
        out = torch.empty((len(rows), latent.tokens, latent.width), dtype=self.dtype)
        shards, order = self._places[rows, 0].sort(stable=True)
        numbers, counts = torch.unique_consecutive(shards, return_counts=True)
        for number, positions in zip(numbers.tolist(), order.split(counts.tolist()), strict=True):
            shard = self._store.rows_of(self._digests[number])
            out[positions] = shard[self._places[rows[positions], 1]]
        return out


Bank = Tensor | StoredLatents


@dataclass
class RamBudget:
    """Memory that the latents of one training may take.

    Attributes:
        left: Bytes.
    """

    left: int

    def take(self, size: int) -> bool:
        """Take `size` bytes if there are as many."""
        fits = size <= self.left
        self.left -= size if fits else 0
        return fits


def load_bank(store: LatentStore, frame_ids: Sequence[str], budget: RamBudget | None = None) -> Bank:
    """Return the latents of the ids: in memory if the budget has room for them (or there is none).

    Raises:
        StoreError: An id is not stored, or a shard is damaged.
    """
    stored = StoredLatents(store, frame_ids)
    return store.read(frame_ids) if budget is None or budget.take(stored.nbytes) else stored
