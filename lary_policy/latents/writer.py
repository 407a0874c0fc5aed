"""Latents on their way into a store: gathered into shards that threads hash and write."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from lary_policy.errors import StoreError
from lary_policy.latents.shards import check_cast
from lary_policy.latents.store import STORE_DTYPES, LatentStore
from lary_policy.machine import scratch
from lary_policy.types import LatentSpec

SHARD_BYTES = 64 * 2**20  # large enough for few files, small enough to hash and rewrite in a second
SHARD_ROWS = 512  # ten seconds of a small ViT on two cores
WRITERS = 8  # threads that hash and write shards; four did not keep up with an H100
WAITING_BYTES = 512 * 2**20  # of latents that wait for them, so that memory stays flat
INDEX_SECONDS = 30.0  # between two versions of the index: whoever opens the store adopts what it lacks


def shard_limit(store: LatentStore, shard_rows: int = SHARD_ROWS) -> int:
    """Return how many latents fill a shard of a store: `shard_rows`, or `SHARD_BYTES` of them."""
    row_bytes = store.latent.tokens * store.latent.width * STORE_DTYPES[store.dtype].itemsize
    return max(1, min(shard_rows, SHARD_BYTES // row_bytes))


def cast_parts(latents: list[Tensor], latent: LatentSpec, dtype: torch.dtype) -> Tensor:
    """Take latents `[f n d]` from a list, one after the other, and return them as one tensor of a dtype.

    It is memory that the calling thread uses again at the next call.

    Raises:
        StoreError: A value does not fit the dtype, see `check_cast`.
    """
    shape = (sum(map(len, latents)), latent.tokens, latent.width)
    rows = scratch("rows", math.prod(shape) * dtype.itemsize).view(dtype).view(shape)
    for into in rows.split([len(part) for part in latents]):
        part = latents.pop(0)  # its memory goes before the shard is packed
        check_cast(part, into.copy_(part))
    return rows


class ShardWriter:
    """Collects latents and publishes a shard whenever enough are there, in threads, while others are made.

    Use it in a `with` block: at its end everything is published. A block that fails waits for the shards
    that are being written and drops the one that is being filled.

    Args:
        store: Where to.
        shard_rows: Most rows of a shard, but for the last batch that is added to it; `SHARD_BYTES` bounds it,
            too.

    Attributes:
        limit: Rows after which a shard is published.
        taken: Rows that were added.
    """

    def __init__(self, store: LatentStore, shard_rows: int = SHARD_ROWS) -> None:
        self.taken = 0
        self._store = store
        self.limit = shard_limit(store, shard_rows)
        self._ids: list[str] = []
        self._latents: list[Tensor] = []
        self._codes: list[Tensor] = []
        self._pool = ThreadPoolExecutor(WRITERS, "write")
        self._pending: deque[tuple[Future[str], int]] = deque()
        self._indexed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        self._abandon()

    def add(self, ids: Sequence[str], latents: Tensor, codes: Tensor | None = None) -> None:
        """Take latents `[f n d]` and, of an encoder with a codebook, their codes `[f m]`.

        Raises:
            StoreError: An earlier shard could not be written.
        """
        self.taken += len(ids)
        self._ids.extend(ids)
        self._latents.append(latents.detach().cpu())
        if codes is not None:
            self._codes.append(codes.detach().cpu())
        if len(self._ids) >= self.limit:
            self._submit()

    def close(self) -> None:
        """Publish what is there and wait until it is.

        Raises:
            StoreError: A value does not fit the store's dtype, or the disk is full; other shards are kept.
        """
        try:
            if self._ids:
                self._submit()
            while self._pending:
                self._pending.popleft()[0].result()
        except BaseException:
            self._abandon()
            raise
        self._pool.shutdown()
        self._store.publish_index()

    def _abandon(self) -> None:
        self._pool.shutdown()  # shards that are being written are kept
        with suppress(StoreError):  # what went wrong is known already
            self._store.publish_index()

    def _submit(self) -> None:
        size = sum(latents.nbytes for latents in self._latents)
        while self._pending and (
            self._pending[0][0].done()
            or len(self._pending) >= WRITERS
            or size + sum(waiting for _, waiting in self._pending) > WAITING_BYTES
        ):
            self._pending.popleft()[0].result()
        job = self._pool.submit(self._write, self._ids, self._latents, self._codes)
        self._pending.append((job, size))
        self._ids, self._latents, self._codes = [], [], []
        if time.monotonic() - self._indexed > INDEX_SECONDS:
            self._store.publish_index()
            self._indexed = time.monotonic()

    def _write(self, ids: Sequence[str], latents: list[Tensor], codes: Sequence[Tensor]) -> str:
        rows = cast_parts(latents, self._store.latent, STORE_DTYPES[self._store.dtype])
        more = {"codes": torch.cat(list(codes))} if codes else {}
        return self._store.write_shard(ids, rows, index=False, **more)
