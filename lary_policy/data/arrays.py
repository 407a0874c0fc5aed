"""Reading action chunks and poses from `.npy` files, without ever unpickling."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lary_policy.errors import DatasetError
from lary_policy.paths import foreign_file, open_regular, read_regular

_MAX_HEADER_BYTES = 4096  # a plain numeric .npy header is 128 bytes; anything near this is not one
_PREAMBLE_BYTES = 12  # magic, version and the longer of the two lengths
_PLAIN_HEADER_BYTES = 128  # numpy pads headers to multiples of 64; those of chunks need two
_MAX_ITEM_BYTES = 16  # long double
# Unpacked: latents of a clip of the largest model are 80 MB, ids of a million frames of three cameras 200.
MAX_ARCHIVE_BYTES = 1 << 29
_MAX_STEPS = 100_000  # an hour of 30 Hz: no chunk is longer, a file that claims so is none


def read_chunk(path: Path, steps: int, action_dim: int) -> NDArray[np.float32]:
    """Read a chunk of actions as float32 `[k, a]`.

    Any array whose row-major flattening has k * a numbers is accepted, as the reference does, unless its
    shape says that its rows are not actions.

    Raises:
        DatasetError: The file is missing or not a numeric array, has another length, or is not finite.
    """
    need = steps * action_dim
    array = read_numbers(path, need)
    if array.size != need or not _are_rows(array.shape, action_dim):
        raise DatasetError(
            expected=f"{steps} x {action_dim} = {need} numbers in {path.name}",
            got=f"{array.size} (shape {array.shape})",
            fix="Choose the stride and embodiment this dataset was made with, or write the file anew.",
        )
    return _finite(path, array, np.dtype(np.float32)).reshape(steps, action_dim)


def read_steps(path: Path, action_dim: int) -> NDArray[np.float64]:
    """Read a chunk of any length as float64 `[k, a]`.

    Raises:
        DatasetError: The file is missing or not a numeric array, holds no whole steps, or is not finite.
    """
    array = read_numbers(path, _MAX_STEPS * action_dim)
    if array.size == 0 or array.size % action_dim or not _are_rows(array.shape, action_dim):
        raise DatasetError(
            expected=f"a multiple of {action_dim} numbers in {path.name}",
            got=f"{array.size} (shape {array.shape})",
            fix="Choose the embodiment this dataset was made with, or write the file anew.",
        )
    return _finite(path, array, np.dtype(np.float64)).reshape(-1, action_dim)


class PlainChunks:
    """Reads many `.npy` files of one kind: the bytes of each, and the numbers of all at once.

    The kind is that of the first file that is plain: C order, float32 or float64, as many numbers as wanted,
    a header of the usual length. Other files may be as good; `read_chunk` reads them.

    Args:
        steps: Steps k of a chunk.
        action_dim: Numbers a of an action.
    """

    def __init__(self, steps: int, action_dim: int) -> None:
        self._shape = (steps, action_dim)
        self._header, self._dtype, self._size = b"", np.dtype("<f4"), 0
        self._others: set[bytes] = set()

    def read(self, path: str) -> bytes | None:
        """Return the data of a file; None if it is missing or of another kind."""
        need = self._shape[0] * self._shape[1]
        try:
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            content = os.read(file, _PLAIN_HEADER_BYTES + need * _MAX_ITEM_BYTES)
        except OSError:
            return None
        finally:
            os.close(file)
        header = content[:_PLAIN_HEADER_BYTES]
        if not header or (header != self._header and not self._take(header)):
            return None
        return content[_PLAIN_HEADER_BYTES:] if len(content) == self._size else None

    def values(self, contents: Sequence[bytes]) -> NDArray[np.float32]:
        """Return the numbers of files that were read, `[N k a]`."""
        return np.frombuffer(b"".join(contents), self._dtype).astype(np.float32).reshape(-1, *self._shape)

    def _take(self, header: bytes) -> bool:
        """Take a header for that of the usual file if there is none yet and it is plain."""
        if self._header or header in self._others:
            return False
        try:
            shape, fortran_order, dtype = _parse_header(header)
        except Exception:  # a damaged header raises anything; `read_chunk` names it
            shape, fortran_order, dtype = (), False, np.dtype(np.void)
        need = self._shape[0] * self._shape[1]
        plain = dtype.str in ("<f4", "<f8") and (not fortran_order or len(shape) == 1)
        whole = math.prod(shape) == need and _are_rows(shape, self._shape[1])
        if not whole or not plain or _data_start(header) != _PLAIN_HEADER_BYTES:
            self._others.add(header)
            return False
        self._header, self._dtype = header, dtype
        self._size = _PLAIN_HEADER_BYTES + need * dtype.itemsize
        return True


def _are_rows(shape: Sequence[int], action_dim: int) -> bool:
    """Tell whether an array may be actions one after the other: flat, or with actions as its last axis."""
    sides = [side for side in shape if side != 1]
    return len(sides) < 2 or sides[-1] == action_dim or action_dim == 1


def _finite[F: np.floating[Any]](path: Path, array: NDArray[Any], dtype: np.dtype[F]) -> NDArray[F]:
    values = np.array(array, dtype=dtype, order="C")
    if not np.isfinite(values).all():
        raise DatasetError(
            expected=f"finite numbers in {path.name}",
            got=f"{int((~np.isfinite(values)).sum())} that are NaN or infinite",
            fix="Write the file anew or leave the row out of the CSV.",
        )
    return values


def read_numbers(path: Path, need: int) -> NDArray[np.generic]:
    """Read an array as it is stored, if it is not far larger than the numbers that are needed.

    Raises:
        DatasetError: The file is missing, not a numeric array, or too large.
    """
    limit = need * _MAX_ITEM_BYTES + _MAX_HEADER_BYTES
    fix = "Restore the file, or write the dataset anew with `lary data`."
    with foreign_file("a numeric .npy array", path, fix):
        return _parse(read_regular(path, limit))


def read_archive(path: Path, names: Sequence[str], kinds: str = "fiu") -> dict[str, NDArray[Any]]:
    """Read arrays of an .npz file, those that are there, without unpickling anything.

    Args:
        path: The file.
        names: Of the arrays.
        kinds: Kinds of dtype that the arrays may have, as numpy's `dtype.kind`.

    Raises:
        ValueError: It holds something else than arrays of these kinds, or unpacks to more than
            `MAX_ARCHIVE_BYTES`.
        OSError: It is missing or no regular file.
        Exception: Whatever `zipfile`, `zlib` and numpy make of a damaged file.
    """
    with open_regular(path) as (file, _), zipfile.ZipFile(file) as archive:
        wanted = [m for m in archive.infolist() if m.filename.removesuffix(".npy") in names]
        size = sum(member.file_size for member in wanted)
        if size > MAX_ARCHIVE_BYTES:
            raise ValueError(f"{size} bytes unpacked, of at most {MAX_ARCHIVE_BYTES}")
        found = {m.filename.removesuffix(".npy"): _parse(archive.read(m), kinds) for m in wanted}
        if len(found) < len(wanted):
            raise ValueError("an array that is there twice")
        return found


def _parse(content: bytes, kinds: str = "fiu") -> NDArray[np.generic]:
    """Return the array in the bytes of an .npy file; ValueError if it is none or of another kind."""
    if content[:6] != b"\x93NUMPY" or len(content) < _PREAMBLE_BYTES:
        raise ValueError("no .npy file")
    start = _data_start(content)
    shape, fortran_order, dtype = _parse_header(content[:start])
    if dtype.kind not in kinds:
        raise ValueError(f"dtype {dtype}")
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {shape}")
    count = math.prod(shape)
    if len(content) - start < count * dtype.itemsize:
        raise ValueError(f"{len(content) - start} bytes of data, {count * dtype.itemsize} are stated")
    flat = np.frombuffer(content, dtype, count, start)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def _data_start(content: bytes) -> int:
    """Return where the data of an .npy file begins, as its first bytes say."""
    length = 2 if content[6] == 1 else 4
    return 8 + length + int.from_bytes(content[8 : 8 + length], "little")


@lru_cache(maxsize=256)
def _parse_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Parse a header; the files of a dataset share a few, and parsing takes longer than reading."""
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    return tuple(shape), bool(fortran_order), dtype
