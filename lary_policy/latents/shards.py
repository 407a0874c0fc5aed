"""One safetensors shard of latents: its file name is the sha256 of its content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from lary_policy.encoders.weights import DTYPE_NAMES, tensor_parts
from lary_policy.errors import StoreError
from lary_policy.machine import scratch
from lary_policy.paths import atomic_write, foreign_file, open_regular

# Higher levels take twice the time and save nothing: there are no repetitions, only frequent bytes.
_CODEC = pa.Codec("zstd", compression_level=1)
_LOW, _HIGH, _ENDS, _SHAPE = "low_bytes", "high_bytes", "high_ends", "empty_latents"
_HEAD = 1 << 17  # bytes at the start of a shard: its header, and where its rows end
_DTYPES = {DTYPE_NAMES[dtype]: dtype for dtype in (torch.int64, torch.uint8, torch.float16, torch.bfloat16)}


def pack(latents: Tensor) -> dict[str, Tensor]:
    """Return the tensors that stand for latents `[f n d]` of 16 bits in a shard, until the next call.

    They are all low bytes `[f n*d]`, the compressed high bytes one row after the other, where each row ends
    in them `[f]`, and an empty tensor `[0 n d]` of the latents' dtype.
    """
    planes = latents.contiguous().view(torch.uint8).view(len(latents), -1, 2)  # little-endian
    low = scratch("low", planes[..., 0].numel()).view(planes.shape[:2]).copy_(planes[..., 0])
    row = scratch("row", planes.shape[1])
    high = bytearray()
    ends = []
    for plane in planes[..., 1]:
        high += memoryview(_CODEC.compress(memoryview(row.copy_(plane).numpy())))
        ends.append(len(high))
    return {
        _LOW: low,
        _ENDS: torch.tensor(ends),
        _SHAPE: latents[:0].contiguous(),
        _HIGH: torch.frombuffer(high, dtype=torch.uint8),
    }


class PackedRows:
    """Rows of a packed shard; only those that are indexed are read and unpacked.

    Args:
        tensors: What `pack` returned.
        mapped: The file that low and high bytes are mapped from, if one is, to be told what is read next.

    Raises:
        KeyError: One of the tensors is missing.
    """

    def __init__(self, tensors: Mapping[str, Tensor], mapped: mmap.mmap | None = None) -> None:
        self._low, self._high = tensors[_LOW].numpy(), tensors[_HIGH].numpy()
        self._ends = [0, *tensors[_ENDS].tolist()]
        self._mapped = mapped
        self._first = 0 if mapped is None else np.frombuffer(mapped, np.uint8).ctypes.data
        self.dtype, self.shape = tensors[_SHAPE].dtype, (len(self._low), *tensors[_SHAPE].shape[1:])

    def __len__(self) -> int:
        return len(self._low)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the latents `[r n d]` of rows `[r]`."""
        out = np.empty((len(rows), self._low.shape[1], 2), np.uint8)
        for row in rows.tolist():  # all of them are on their way before the first is waited for
            self._ask_for(self._low[row])
            self._ask_for(self._high[self._ends[row] : self._ends[row + 1]])
        for place, row in enumerate(rows.tolist()):
            packed = memoryview(self._high[self._ends[row] : self._ends[row + 1]])
            out[place, :, 0] = self._low[row]
            high = _CODEC.decompress(packed, decompressed_size=out.shape[1], asbytes=True)
            out[place, :, 1] = np.frombuffer(high, np.uint8)
        return torch.from_numpy(out).view(self.dtype).view(len(rows), *self.shape[1:])

    def _ask_for(self, plane: NDArray[np.uint8]) -> None:
        if self._mapped is not None and plane.size and hasattr(mmap, "MADV_WILLNEED"):
            at = plane.ctypes.data - self._first
            start = at // mmap.PAGESIZE * mmap.PAGESIZE
            self._mapped.madvise(mmap.MADV_WILLNEED, start, at + plane.nbytes - start)


SUFFIX = ".safetensors"
_TENSOR, _CODES, _IDS = "latents", "codes", "frame_ids"


def write_shard(
    folder: Path,
    frame_ids: Sequence[str],
    latents: Tensor,
    codes: Tensor | None = None,
    *,
    packed: bool = False,
) -> str:
    """Publish latents `[f n d]` atomically in `folder` and return the shard's sha256, which is its name.

    Args:
        folder: Folder of the shards.
        frame_ids: Id of each row.
        latents: What is stored.
        codes: Codebook indices `[f m]` of the rows, for encoders that have a codebook.
        packed: Whether latents of 16 bits are compressed without loss (`packing`).

    Raises:
        StoreError: The disk is full or not writable; nothing half-written remains.
    """
    digest, parts = shard_content(frame_ids, latents, codes, packed=packed)
    write_parts(folder / f"{digest}{SUFFIX}", parts)
    return digest


def shard_content(
    frame_ids: Sequence[str], latents: Tensor, codes: Tensor | None = None, *, packed: bool = False
) -> tuple[str, list[bytes | memoryview]]:
    """Return the sha256 and the bytes of a shard, until the next call; arguments as for `write_shard`."""
    tensors = pack(latents) if packed and latents.itemsize == 2 else {_TENSOR: latents.contiguous()}
    if codes is not None:
        tensors[_CODES] = codes.to("cpu", torch.int32).contiguous()
    # Widest numbers first, so that all of them are aligned whatever the shapes, as safetensors has it, too.
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].itemsize))
    parts = tensor_parts(tensors, {_IDS: json.dumps(list(frame_ids))})
    content = hashlib.sha256()
    for part in parts:
        content.update(part)
    return content.hexdigest(), parts


def write_parts(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    """Publish a file atomically; StoreError where the disk is full or not writable."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(parts[0])
        with temporary.open("ab") as file:
            file.writelines(parts[1:])


def check_shard(path: Path) -> None:
    """Raise StoreError unless the file's bytes have the sha256 that its name says."""
    with (
        foreign_file("an intact shard", path, _again(path), error=StoreError),
        open_regular(path) as (file, _),
    ):
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != path.stem:
        raise _damaged(path, f"bytes with sha256 {digest}")


def shard_frame_ids(path: Path) -> tuple[str, ...]:
    """Read the frame ids of a shard in row order.

    Raises:
        StoreError: The shard is damaged.
    """
    with _opened(path) as file:
        return tuple(json.loads(file.metadata()[_IDS]))


def read_shard(path: Path) -> Tensor:
    """Read all latents `[f n d]` of a shard; those that are not packed are a view of the mapped file.

    Raises:
        StoreError: The shard is damaged.
    """
    shard = open_shard(path)
    return shard if isinstance(shard, Tensor) else shard[torch.arange(len(shard))]


def open_shard(path: Path) -> Tensor | PackedRows:
    """Map the latents of a shard into memory: rows are read from disk when they are indexed.

    Raises:
        StoreError: The shard is damaged.
    """
    with _opened(path) as file:
        if _TENSOR in file.keys():  # noqa: SIM118  # it is no mapping
            latents: Tensor = file.get_tensor(_TENSOR)
            return latents
    with foreign_file("an intact shard", path, _again(path), error=StoreError):
        return _packed(path)


def _packed(path: Path) -> PackedRows:
    """Map a packed shard without that any of its rows is read.

    safetensors' own mapping looks at some, and the system reads megabytes around each.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)
    start = 8 + int.from_bytes(mapped[:8], "little")
    header = json.loads(mapped[8:start])
    found = {}
    for name in (_LOW, _HIGH, _ENDS, _SHAPE):
        about, (first, end) = header[name], header[name]["data_offsets"]
        dtype = _DTYPES[about["dtype"]]
        count = (end - first) // dtype.itemsize
        flat = torch.frombuffer(mapped, dtype=dtype, offset=start + first, count=count) if count else None
        found[name] = (torch.empty(0, dtype=dtype) if flat is None else flat).view(about["shape"])
    return PackedRows(found, mapped)


def read_codes(path: Path) -> Tensor:
    """Read the codebook indices `[f m]` (int64) of a shard.

    Raises:
        StoreError: The shard is damaged, or was written without.
    """
    with _opened(path) as file:
        codes: Tensor = file.get_tensor(_CODES)
        return codes.long()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    fix = _again(path)
    with (
        foreign_file("an intact shard", path, fix, error=StoreError),
        open_regular(path) as (plain, _),
    ):
        if hasattr(os, "posix_fadvise"):  # the head alone, not the megabytes behind it that a mapping reads
            os.posix_fadvise(plain.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            os.pread(plain.fileno(), _HEAD, 0)
        with safe_open(path, framework="pt") as file:
            yield file


def cast_latents(latents: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast latents `[f n d]` to the store's dtype on the CPU; see `check_cast`."""
    cast = latents.detach().to("cpu", dtype)
    check_cast(latents, cast)
    return cast


def check_cast(latents: Tensor, cast: Tensor) -> None:
    """Refuse a cast of latents `[f n d]` that lost more than digits.

    Numbers keep the dtype's precision (float16: 11 bits) relative to the largest of their row, as long as
    that is a normal number (float16: 2^-14).

    Raises:
        StoreError: A value is not finite, before or after the cast (float16 ends at 65504), or a row other
            than zero has no number that is normal in the dtype.
    """
    dtype = cast.dtype
    # NaN and infinities reach the extremes, which takes a tenth of the time of looking at each value.
    low, high = torch.aminmax(cast.flatten(1), dim=1)
    if not (low.isfinite() & high.isfinite()).all():
        was = int((~torch.isfinite(latents)).sum())
        raise StoreError(
            expected=f"latents that are finite in {dtype}",
            got=f"{int((~torch.isfinite(cast)).sum())} non-finite values, {was} of them before the cast",
            fix="Store them with latents_dtype=float32 or bfloat16, or check the encoder's precision.",
        )
    small = torch.maximum(-low, high) < torch.finfo(dtype).tiny
    if small.any() and latents[small.to(latents.device)].any():
        raise StoreError(
            expected=f"latents with numbers of at least {torch.finfo(dtype).tiny:.1e}, normal in {dtype}",
            got=f"{int(small.sum())} rows below, one up to {latents.abs().flatten(1).amax(1).min():.1e}",
            fix="Store them with latents_dtype=float32 or bfloat16.",
        )


def _damaged(path: Path, got: str) -> StoreError:
    return StoreError(expected=f"an intact shard {path}", got=got, fix=_again(path))


def _again(path: Path) -> str:
    return f"Delete it (rm '{path}') and run `lary extract` again: only its frames are encoded anew."
