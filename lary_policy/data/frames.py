"""Frame files: their content id and their full decoding."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lary_policy.errors import FrameFormatError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def frame_id(path: Path) -> str:
    """Return the sha256 (64 hex digits) of the file's bytes.

    Raises:
        FrameFormatError: The file is missing or cannot be read.
    """
    return hashlib.sha256(_read(path)).hexdigest()


def pair_id(first: str, second: str) -> str:
    """Return the id (64 hex digits) of two frames in this order, given their own ids."""
    return hashlib.sha256(f"{first}>{second}".encode()).hexdigest()


def decode_frame(path: Path) -> Tensor:
    """Decode an image completely to uint8 RGB `[h, w, 3]`.

    Raises:
        FrameFormatError: The file is missing, truncated, corrupt or no image.
    """
    data = _read(path)
    try:
        if data.startswith(_PNG_SIGNATURE):
            _check_png(data)
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            pixels = np.array(image.convert("RGB"))
    # Pillow reports damage as any of these, depending on the format and on where the damage is.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise FrameFormatError(
            expected=f"a complete image at {path}",
            got=f"{len(data)} bytes that do not decode ({type(error).__name__}: {error})",
            fix="Restore the file; rows that use it are quarantined until then.",
        ) from error
    return torch.from_numpy(pixels)


def _check_png(data: bytes) -> None:
    """Raise ValueError unless every chunk up to IEND is there with its checksum.

    Pillow stops reading when it has all rows, so it misses damage in the last bytes.
    """
    at, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        head = data[at : at + 8]
        if len(head) < 8:
            raise ValueError("the PNG ends before its IEND chunk")
        length, kind = struct.unpack(">I4s", head)
        end = at + 8 + length
        if data[end : end + 4] != struct.pack(">I", zlib.crc32(data[at + 4 : end])):
            raise ValueError(f"checksum of PNG chunk {kind!r} is wrong or cut off")
        at = end + 4


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FrameFormatError(
            expected=f"an image at {path}",
            got="no such file" if isinstance(error, FileNotFoundError) else f"{error.strerror}",
            fix="Restore the file; rows that use it are quarantined until then.",
        ) from error
