"""Content-addressed cache of latents on disk: safetensors shards and a parquet index."""

from __future__ import annotations

import hashlib
import json
import threading
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lary_policy.errors import ShapeError, StoreError, UnknownNameError
from lary_policy.latents.places import Place
from lary_policy.latents.shards import (
    SUFFIX,
    PackedRows,
    cast_latents,
    check_shard,
    open_shard,
    read_codes,
    shard_frame_ids,
    write_parts,
    write_shard,
)
from lary_policy.machine import abreast, available_cores
from lary_policy.paths import atomic_write, foreign_file, open_regular, read_json, write_json
from lary_policy.types import LatentSpec, Quarantined

STORE_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
OPEN_SHARDS = 1024  # mapped at once: Linux allows a process 65,530 mappings
STORE_FILE, INDEX_FILE, SHARDS = "store.json", "index.parquet", "shards"
_DIGEST = b"entries_sha256"  # in the metadata of the index


class LatentStore:
    """Latents of frames by frame id, or of pairs of frames by pair id, of one encoder fingerprint.

    A shard is published before the index names it; a shard that no index names (the process died in between,
    or two processes wrote at once) is adopted when the store is opened, so nothing finished is lost. An index
    says what it was written to say, which its own sha256 tells, or it is made anew from the shards.

    Args:
        root: Folder of this store; created with the first shard.
        fingerprint: Fingerprint of the encoder (weights, preprocessing, dtype, code version).
        latent: Shape of one latent.
        dtype: One of `STORE_DTYPES`.
        packed: Whether new shards of 16 bits are compressed without loss; both kinds may lie side by side.
        remote: The store that `root` mirrors: what is written goes there too, and shards come when they are
            first read.

    Attributes:
        packed, remote: As given.
        quarantined: Shards that were named by the index but missing, or present but damaged, when opened.

    Raises:
        StoreError: The folder holds latents of another fingerprint, dtype or shape.
        UnknownNameError: The dtype is not one of `STORE_DTYPES`.
    """

    def __init__(
        self,
        root: Path,
        fingerprint: str,
        latent: LatentSpec,
        *,
        dtype: str = "float16",
        packed: bool = False,
        remote: Place | None = None,
    ) -> None:
        if dtype not in STORE_DTYPES:
            raise UnknownNameError("store dtype", dtype, STORE_DTYPES)
        self.root, self.fingerprint, self.latent, self.dtype = Path(root), fingerprint, latent, dtype
        self.packed, self.remote = packed, remote
        self.quarantined: list[Quarantined] = []
        self._where: dict[str, tuple[str, int]] = {}
        self._checked: set[str] = set()
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._open: dict[str, Tensor | PackedRows] = {}
        self._check_identity()
        self.reload()

    @classmethod
    def open(cls, root: Path, remote: Place | None = None) -> LatentStore:
        """Open a store that exists, or the mirror of one, as what its own `store.json` says it is.

        Raises:
            StoreError: There is no store, or its `store.json` cannot be read.
        """
        fix = "Choose the folder of a latent store, or extract it anew."
        _mirror(remote, Path(root), STORE_FILE)
        with foreign_file(f"a readable {STORE_FILE}", Path(root) / STORE_FILE, fix, error=StoreError):
            identity = read_json(Path(root) / STORE_FILE, error=StoreError, fix=fix)
            spec = identity["latent"]
            grid = None if spec["grid"] is None else tuple(spec["grid"])
            latent = LatentSpec(**{**spec, "grid": grid})
            fingerprint, dtype = identity["fingerprint"], identity["dtype"]
        return cls(root, fingerprint, latent, dtype=dtype, remote=remote)

    def __len__(self) -> int:
        return len(self._where)

    def contains(self, frame_id: str) -> bool:
        """Tell whether the latent of a frame is stored."""
        return frame_id in self._where

    def missing(self, frame_ids: Iterable[str]) -> tuple[str, ...]:
        """Return the ids that are not stored, each once, in order."""
        return tuple(f for f in dict.fromkeys(frame_ids) if f not in self._where)

    def shards(self) -> tuple[Path, ...]:
        """Return the shard files that the index names."""
        return tuple(self._path(digest) for digest in dict.fromkeys(d for d, _ in self._where.values()))

    def write_shard(
        self, frame_ids: Sequence[str], latents: Tensor, codes: Tensor | None = None, *, index: bool = True
    ) -> str:
        """Publish the latents `[f n d]` of f new frames as one shard and return its sha256.

        Several threads may write at once: only the index waits.

        Args:
            frame_ids: Id of each frame (or pair).
            latents: Their latents.
            codes: Their codebook indices `[f m]`, for encoders that have a codebook.
            index: Whether to publish the index, too; otherwise call `publish_index` in the end.

        Raises:
            ShapeError: The latents have another shape than the store's `LatentSpec`.
            StoreError: A value does not fit the store's dtype, or the disk is full; earlier shards stay.
        """
        expected = (len(frame_ids), self.latent.tokens, self.latent.width)
        if tuple(latents.shape) != expected or len(frame_ids) == 0:
            raise ShapeError(
                expected=f"latents {expected} of at least one frame",
                got=f"{tuple(latents.shape)}",
                fix="Pass one latent for each frame id, shaped as the encoder's LatentSpec says.",
            )
        cast = cast_latents(latents, STORE_DTYPES[self.dtype])
        self.publish_identity()
        digest = write_shard(self.root / SHARDS, frame_ids, cast, codes, packed=self.packed)
        self._send(f"{SHARDS}/{digest}{SUFFIX}")
        self.adopt(digest, frame_ids)
        self._checked.add(digest)
        if index:
            self.publish_index()
        return digest

    def adopt(self, digest: str, frame_ids: Sequence[str]) -> None:
        """Take a published shard that holds these ids in its rows; `publish_index` tells others."""
        with self._lock:
            self._where.update({f: (digest, row) for row, f in enumerate(frame_ids)})

    def publish_index(self) -> None:
        """Write the index of everything stored; whoever opens the store before hashes and adopts the rest.

        Raises:
            StoreError: The disk is full or not writable.
        """
        with self._lock:
            if not self._where:
                return
            digests, rows = zip(*self._where.values(), strict=True)
            table = pa.table(
                {
                    "frame_id": pa.array(self._where.keys(), pa.string()),
                    "shard_sha256": pa.array(digests, pa.string()).dictionary_encode(),
                    "row": pa.array(rows, pa.int32()),
                }
            )
            table = table.replace_schema_metadata({_DIGEST: _digest(self._where)})
            with atomic_write(self.root / INDEX_FILE) as temporary:
                pq.write_table(table, temporary)
            self._send(INDEX_FILE)

    def read(self, frame_ids: Sequence[str]) -> Tensor:
        """Return the latents `[F n d]` of the ids, in their order and the store's dtype.

        The first use of a shard checks its sha256.

        Raises:
            StoreError: An id is not stored, or a shard is damaged.
        """
        shape = (len(frame_ids), self.latent.tokens, self.latent.width)
        out = torch.empty(shape, dtype=STORE_DTYPES[self.dtype])

        def fill(digest: str, positions: Tensor, rows: Tensor) -> None:
            out[positions] = self._open_checked(digest)[rows]

        abreast([partial(fill, *place) for place in self._places(frame_ids)], available_cores())
        return out

    def locate(self, frame_ids: Sequence[str]) -> tuple[tuple[str, ...], Tensor]:
        """Return the sha256 of the shards and, for each id, int64 `[F 2]`: which of them, and its row there.

        Raises:
            StoreError: An id is not stored.
        """
        self._require(frame_ids)
        number: dict[str, int] = {}
        found = (self._where[frame] for frame in frame_ids)
        places = [(number.setdefault(digest, len(number)), row) for digest, row in found]
        return tuple(number), torch.tensor(places, dtype=torch.int64).reshape(-1, 2)

    def rows_of(self, digest: str) -> Tensor | PackedRows:
        """Map a shard into memory; it stays mapped until `OPEN_SHARDS` others were asked for.

        The first use of a shard checks its sha256. Threads may call this at once.

        Raises:
            StoreError: The shard is damaged or gone.
        """
        with self._opening:
            shard = self._open.pop(digest, None)
            if shard is None:
                shard = self._open_checked(digest)
            self._open[digest] = shard  # the last in the order of use
            if len(self._open) > OPEN_SHARDS:
                del self._open[next(iter(self._open))]
            return shard

    def read_codes(self, frame_ids: Iterable[str]) -> Tensor:
        """Return all codebook indices (int64, flat) of the ids, in no order.

        Raises:
            StoreError: An id is not stored, or a shard is damaged or has no codes.
        """
        places = self._places(list(frame_ids))
        codes = [read_codes(self._here(digest))[rows].flatten() for digest, _, rows in places]
        return torch.cat(codes) if codes else torch.empty(0, dtype=torch.int64)

    def verify(self) -> list[Path]:
        """Read every shard again and return those whose bytes do not have the sha256 in the index."""
        corrupt = []
        for path in self.shards():
            try:
                check_shard(path)
            except StoreError:
                corrupt.append(path)
        return corrupt

    def _places(self, frame_ids: Sequence[str]) -> list[tuple[str, Tensor, Tensor]]:
        """Return for each shard its digest, which of the ids it holds, and in which of its rows."""
        self._require(frame_ids)
        by_shard: dict[str, list[tuple[int, int]]] = {}
        for position, frame in enumerate(frame_ids):
            digest, row = self._where[frame]
            by_shard.setdefault(digest, []).append((position, row))
        columns = {digest: torch.tensor(places).T for digest, places in by_shard.items()}
        return [(digest, positions, rows) for digest, (positions, rows) in columns.items()]

    def _require(self, frame_ids: Sequence[str]) -> None:
        absent = self.missing(frame_ids)
        if absent:
            raise StoreError(
                expected=f"latents of {len(frame_ids)} frames or pairs in {self.root}",
                got=f"{len(absent)} that are not there, for example {absent[0][:16]}",
                fix="Run `lary extract` for this encoder and dataset.",
            )

    def _path(self, digest: str) -> Path:
        return self.root / SHARDS / f"{digest}{SUFFIX}"

    def _here(self, digest: str) -> Path:
        """Return the file of a shard, which is fetched where it is only in the remote store."""
        path = self._path(digest)
        if self.remote is not None and not path.exists():
            _mirror(self.remote, self.root, f"{SHARDS}/{path.name}")
        return path

    def _send(self, name: str) -> None:
        if self.remote is not None:
            self.remote.put(name, [(self.root / name).read_bytes()])

    def _open_checked(self, digest: str) -> Tensor | PackedRows:
        path = self._here(digest)
        if digest not in self._checked:
            check_shard(path)
            self._checked.add(digest)
        latents = open_shard(path)
        expected = (self.latent.tokens, self.latent.width)
        if tuple(latents.shape[1:]) != expected or latents.dtype != STORE_DTYPES[self.dtype]:
            raise StoreError(
                expected=f"latents {expected} in {self.dtype}",
                got=f"{tuple(latents.shape[1:])} in {latents.dtype} ({path})",
                fix=f"Delete it (rm '{path}') and run `lary extract` again.",
            )
        return latents

    def _identity(self) -> dict[str, Any]:
        latent = json.loads(json.dumps(asdict(self.latent)))
        return {"fingerprint": self.fingerprint, "dtype": self.dtype, "latent": latent}

    def _check_identity(self) -> None:
        path = self.root / STORE_FILE
        _mirror(self.remote, self.root, STORE_FILE)
        if not path.exists():
            return
        found: object
        try:
            found = read_json(path, error=StoreError)
        except StoreError as error:
            found = error.got
        if found != self._identity():
            raise StoreError(
                expected=f"a store of {self._identity()} in {self.root}",
                got=str(found),
                fix=f"Delete the folder (rm -r '{self.root}') and extract anew, or choose another.",
            )

    def publish_identity(self) -> None:
        """Write what the store is, where that is not done; StoreError where it cannot be."""
        if not (self.root / STORE_FILE).exists():
            write_json(self.root / STORE_FILE, self._identity(), seal=True)
            self._send(STORE_FILE)

    def reload(self) -> None:
        """Read what is stored, as other processes left it.

        Entries whose shard is gone are forgotten, shards that the index does not name are adopted, and an
        index that is not as it was written is made anew from the shards, which say themselves what they hold.
        """
        self.quarantined.clear()
        _mirror(self.remote, self.root, INDEX_FILE)
        where = self._read_index()
        # After the index: a shard that it names was there before it.
        on_disk = {p.stem for p in (self.root / SHARDS).glob(f"*{SUFFIX}") if not p.name.startswith(".")}
        if self.remote is not None:
            on_disk |= {name.removesuffix(SUFFIX) for name in self.remote.names(SHARDS)}
        named = {digest for digest, _ in where.values()}
        for digest in sorted(named - on_disk):
            self._set_aside(
                self._path(digest), "named by the index but missing; its frames will be encoded again"
            )
        self._where = {f: place for f, place in where.items() if place[0] in on_disk}
        for digest in sorted(on_disk - named):
            self._adopt(digest)
        if on_disk - named:
            with suppress(StoreError):  # of a folder that may only be read: it is adopted again next time
                self.publish_index()

    def _read_index(self) -> dict[str, tuple[str, int]]:
        index = self.root / INDEX_FILE
        if not index.exists():
            return {}
        try:
            # `read_table` would import pandas, and a pipe would be waited for.
            with open_regular(index) as (opened, _), pq.ParquetFile(opened) as file:
                table = file.read()
            columns = [table.column(c).to_pylist() for c in ("frame_id", "shard_sha256", "row")]
            where = {f: (digest, row) for f, digest, row in zip(*columns, strict=True)}
            stated = (table.schema.metadata or {}).get(_DIGEST)
            reason = (
                None if stated is None else "other entries than were written" * (stated != _digest(where))
            )
        except Exception as error:  # whatever pyarrow makes of a damaged file
            where, stated, reason = {}, None, f"unreadable: {type(error).__name__}"
        if reason:
            self._set_aside(index, f"{reason}; rebuilt from the shards")
        # Versions before 2 wrote no digest: nothing says that such an index is as it was written.
        return where if stated is not None and not reason else {}

    def _adopt(self, digest: str) -> None:
        path = self._path(digest)
        try:
            frame_ids = shard_frame_ids(path) if len(self._open_checked(digest)) else ()
        except StoreError as error:
            self._set_aside(path, str(error))
            return
        for row, frame in enumerate(frame_ids):
            self._where.setdefault(frame, (digest, row))

    def _set_aside(self, path: Path, reason: str) -> None:
        self.quarantined.append(Quarantined(str(path), reason, "LatentStore"))


def _mirror(remote: Place | None, root: Path, name: str) -> None:
    """Fetch a file of a remote store, if it is there."""
    content = None if remote is None else remote.get(name)
    if content is not None:
        write_parts(root / name, [content])


def _digest(where: Mapping[str, tuple[str, int]]) -> bytes:
    """Return the sha256 (hex) of the entries of an index, in their order."""
    content = hashlib.sha256("\n".join(where).encode())
    content.update("\n".join(digest for digest, _ in where.values()).encode())
    content.update(array("q", (row for _, row in where.values())).tobytes())
    return content.hexdigest().encode()
