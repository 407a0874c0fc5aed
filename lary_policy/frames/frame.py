"""Frames: their content id and their full decoding, from files of their own or from inside larger ones."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lary_policy.errors import FrameFormatError
from lary_policy.frames.digests import file_digest
from lary_policy.paths import foreign_file, read_regular

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Formats that are opened at all, whatever a file claims to be: EPS would start a program.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF")
MAX_PIXELS = 1 << 26  # 8192 x 8192: twice what any camera of a robot has; a bomb has more
MAX_FILE_BYTES = 1 << 28
_DEEP = ("I", "F", "I;")  # modes of more than 8 bits: depth maps, which would all turn white
FIX = "Restore the file; rows that use it are quarantined until then."


class StoredFrame(Protocol):
    """A frame inside a larger file, e.g. one of a video; equal frames are the same frame."""

    def ids(self, group: Sequence[Any]) -> list[str]:
        """Return the ids (64 hex digits) of frames of its group; FrameFormatError if one has none."""
        ...

    def group(self) -> Hashable:
        """Return what it shares with all frames that are best read together with it."""
        ...

    def decode(self, group: Sequence[Any]) -> list[Tensor]:
        """Decode frames of its group to uint8 RGB `[h w 3]`; FrameFormatError if one cannot be."""
        ...


Frame = Path | StoredFrame


def frame_id(frame: Frame) -> str:
    """Return the id (64 hex digits) of a frame: of a file, the sha256 of its bytes.

    Raises:
        FrameFormatError: The file is missing or cannot be read.
    """
    return file_digest(frame) if isinstance(frame, Path) else frame.ids([frame])[0]


def frame_ids(frames: Sequence[Frame]) -> list[str | FrameFormatError]:
    """Return the ids of frames, their file looked at once for all; those without one become their error."""
    return _by_group(frames, frame_id, lambda first, group: first.ids(group))


def checked_ids(frames: Sequence[Frame]) -> list[str]:
    """Return the ids of frames like `frame_ids`; FrameFormatError if one has none."""
    found = frame_ids(frames)
    for answer in found:
        if isinstance(answer, FrameFormatError):
            raise answer
    return [answer for answer in found if isinstance(answer, str)]


def pair_id(first: str, second: str) -> str:
    """Return the id (64 hex digits) of two frames in this order, given their own ids."""
    return hashlib.sha256(f"{first}>{second}".encode()).hexdigest()


def decode_frame(frame: Frame) -> Tensor:
    """Decode an image completely to uint8 RGB `[h, w, 3]`.

    Raises:
        FrameFormatError: The file is missing, truncated, corrupt or no image.
    """
    if not isinstance(frame, Path):
        return frame.decode([frame])[0]
    return decode_image(_read(frame), str(frame))


def decode_frames(frames: Sequence[Frame]) -> list[Tensor | FrameFormatError]:
    """Decode frames to uint8 RGB `[h w 3]`, those of one file together; bad ones become their error."""
    return _by_group(frames, decode_frame, lambda first, group: first.decode(group))


def _by_group[T](
    frames: Sequence[Frame], one: Callable[[Frame], T], many: Callable[[StoredFrame, list[Any]], Sequence[T]]
) -> list[T | FrameFormatError]:
    """Ask something of frames, those of one file together."""
    groups: dict[Hashable, list[int]] = {}
    for place, frame in enumerate(frames):
        groups.setdefault(frame if isinstance(frame, Path) else frame.group(), []).append(place)
    found: dict[int, T | FrameFormatError] = {}
    for places in groups.values():
        found.update(zip(places, _ask([frames[i] for i in places], one, many), strict=True))
    return [found[i] for i in range(len(frames))]


def _ask[T](
    group: list[Frame], one: Callable[[Frame], T], many: Callable[[StoredFrame, list[Any]], Sequence[T]]
) -> Sequence[T | FrameFormatError]:
    first = group[0]
    if not isinstance(first, Path) and len(group) > 1:
        try:
            return many(first, group)
        except FrameFormatError:
            pass  # one of them is bad: which one, the next line finds out
    return [_or_error(one, frame) for frame in group]


def _or_error[T](one: Callable[[Frame], T], frame: Frame) -> T | FrameFormatError:
    try:
        return one(frame)
    except FrameFormatError as error:
        return error


def decode_image(data: bytes, name: str) -> Tensor:
    """Decode the bytes of an image file, called `name` in messages, completely to uint8 RGB `[h, w, 3]`.

    Raises:
        FrameFormatError: They are truncated, corrupt or no image.
    """
    try:
        if data.startswith(_PNG_SIGNATURE):
            _check_png(data)
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height}, of at most {MAX_PIXELS} pixels")
            if image.mode in _DEEP or image.mode.startswith(_DEEP[-1]):
                raise ValueError(f"pixels of more than 8 bits (mode {image.mode}): a depth map, no picture")
            image.load()
            pixels = np.array(image.convert("RGB"))
    except Exception as error:  # Pillow reports damage as almost anything
        raise FrameFormatError(
            expected=f"a complete image at {name}",
            got=f"{len(data)} bytes that do not decode ({type(error).__name__}: {error})",
            fix=FIX,
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
    with foreign_file("an image", path, FIX, error=FrameFormatError):
        return read_regular(path, MAX_FILE_BYTES)


def clip_frame_id(digest: str, index: int) -> str:
    """Return the id (64 hex digits) of frame `index` of the video file with this sha256."""
    return hashlib.sha256(f"{digest}#{index}".encode()).hexdigest()


def clip_id(frame_ids: Sequence[str]) -> str:
    """Return the id (64 hex digits) of what an encoder of clips makes of these frames in this order."""
    return hashlib.sha256(">".join(frame_ids).encode()).hexdigest()
