"""Latents that many samples point into: in memory, or on disk and read when they are asked for."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from lary_policy.console import console
from lary_policy.latents.store import STORE_DTYPES, LatentStore
from lary_policy.machine import free_memory

LATELY = 8  # batches: more than two heads are apart that read ahead


class StoredLatents:
    """Latents `[F n d]` that stay in the store's files, which the system maps into memory and out of it.

    Indexing reads the rows asked for. Several threads may do so at once.

    Args:
        store: Where they are.
        frame_ids: Id of each latent.
        steps: Time steps that each stored latent is split into: F is their number times `len(frame_ids)`.

    Attributes:
        shared: Whether the last `LATELY` answers are kept for whoever asks for the same: heads that train
            side by side on one order of samples then read the disk once, as who is behind catches up.

    Raises:
        StoreError: An id is not stored.
    """

    def __init__(self, store: LatentStore, frame_ids: Sequence[str], *, steps: int = 1) -> None:
        self.shared = False
        self._lately: dict[bytes, Future[Tensor]] = {}
        self._asking = threading.Lock()
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

        Of a bank that is `shared` they are only to be looked at.

        Raises:
            StoreError: A shard is damaged or gone.
        """
        flat = index.flatten().cpu()
        if not self.shared:
            return self._rows(flat).view(*index.shape, *self.shape[1:])
        key = flat.numpy().tobytes()
        with self._asking:
            first = key not in self._lately
            answer = self._lately.pop(key, None) or Future()
            self._lately[key] = answer  # the last in the order of use
            if len(self._lately) > LATELY:
                del self._lately[next(iter(self._lately))]
        if first:
            try:
                answer.set_result(self._rows(flat))
            except BaseException as error:
                answer.set_exception(error)
        return answer.result().view(*index.shape, *self.shape[1:])

    def _rows(self, flat: Tensor) -> Tensor:
        wanted, back = torch.unique(flat // self._steps, return_inverse=True)
        if self._steps == 1 and len(wanted) == len(flat):
            return self._read(flat).view(-1, *self.shape[1:])  # nothing twice: each row goes where it belongs
        return self._read(wanted).view(-1, self._steps, *self.shape[1:])[back, flat % self._steps]

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


# Of the free memory: heads, optimisers and other runs need the rest, and whatever is free keeps files that
# are read again and again in memory anyway.
_SHARE = 0.25


def ram_budget(ram_gb: float | None) -> RamBudget:
    """Return the memory for the latents of one training.

    Args:
        ram_gb: 10^9 bytes, or None for a quarter of what is free now.
    """
    return RamBudget(int(free_memory() * _SHARE if ram_gb is None else ram_gb * 1e9))


def tell_what_stays_on_disk(label: str, banks: Mapping[str, Bank]) -> None:
    """Print which splits are read from disk batch by batch; nothing if all are in memory."""
    stored = {split: bank for split, bank in banks.items() if isinstance(bank, StoredLatents)}
    if stored:
        sizes = ", ".join(f"{split} {bank.nbytes / 1e9:.1f} GB" for split, bank in stored.items())
        console.print(f"    latents of {label} stay on disk (latents_ram_gb): {sizes}", soft_wrap=True)
