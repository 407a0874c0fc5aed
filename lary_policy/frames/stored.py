"""Frames that lie inside larger files: of a video, or in a column of a Parquet table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from lary_policy.errors import FrameFormatError
from lary_policy.frames.digests import file_digest
from lary_policy.frames.frame import FIX, clip_frame_id, decode_image
from lary_policy.frames.video import frame_numbers, read_video_frames
from lary_policy.paths import foreign_file, open_regular

AT_ONCE = 64  # rows that are unpacked together
MAX_GROUP_BYTES = 1 << 32  # of images in one row group; LeRobot's files are a fortieth of it


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One frame of a video file."""

    path: Path  # video file
    index: int  # number of the frame in the file, from 0 on
    clamp: bool = False  # whether an index behind the last frame means the last frame, see `ClipRow`

    def __str__(self) -> str:
        return f"{self.path}#{self.index}"

    def ids(self, group: Sequence[VideoFrame]) -> list[str]:
        """Return the ids of frames of this file, the same as those of these frames in a clip of it."""
        digest = file_digest(self.path)
        return [clip_frame_id(digest, frame.index) for frame in group]

    def group(self) -> Path:
        """Return the file: its frames are decoded in one pass."""
        return self.path

    def decode(self, group: Sequence[VideoFrame]) -> list[Tensor]:
        """Decode frames of this file to uint8 RGB `[h w 3]`; only what they need is decoded.

        Raises:
            FrameFormatError: The file is missing, damaged or too short.
        """
        indices = sorted({frame.index for frame in group})
        decoded = read_video_frames(self.path, indices, clamp=any(frame.clamp for frame in group))
        images = dict(zip(indices, decoded, strict=True))
        return [images[frame.index] for frame in group]


@dataclass(frozen=True, slots=True)
class TimedFrame:
    """The frame of a video file that is shown at a time."""

    path: Path  # video file
    time_s: float  # seconds on the file's own clock

    def __str__(self) -> str:
        return f"{self.path}@{self.time_s:.4f}s"

    def ids(self, group: Sequence[TimedFrame]) -> list[str]:
        """Return the ids of frames of this file, the same as those of these frames in a clip of it."""
        digest, numbers = file_digest(self.path), frame_numbers(self.path, [frame.time_s for frame in group])
        return [clip_frame_id(digest, number) for number in numbers]

    def group(self) -> tuple[Path, str]:
        """Return the file: its frames are decoded in one pass."""
        return self.path, "time"

    def decode(self, group: Sequence[TimedFrame]) -> list[Tensor]:
        """Decode frames of this file to uint8 RGB `[h w 3]`; only what they need is decoded.

        Raises:
            FrameFormatError: The file is missing or damaged, or has no frame at such a time.
        """
        numbers = frame_numbers(self.path, [frame.time_s for frame in group])
        wanted = sorted(set(numbers))
        images = dict(zip(wanted, read_video_frames(self.path, wanted), strict=True))
        return [images[number] for number in numbers]


@dataclass(frozen=True, slots=True)
class ParquetFrame:
    """An image file in a cell of a Parquet table."""

    path: Path  # table
    column: str  # A column of structs with the field `bytes`
    row: int  # row of the table

    def __str__(self) -> str:
        return f"{self.path}#{self.column}:{self.row}"

    def ids(self, group: Sequence[ParquetFrame]) -> list[str]:
        """Return the ids of images of this column: they depend on the table's bytes, column and row."""
        start = f"{file_digest(self.path)}#{self.column}#"
        return [hashlib.sha256(f"{start}{frame.row}".encode()).hexdigest() for frame in group]

    def group(self) -> tuple[Path, str]:
        """Return table and column: they are read together."""
        return self.path, self.column

    def decode(self, group: Sequence[ParquetFrame]) -> list[Tensor]:
        """Decode images of this column to uint8 RGB `[h w 3]`; only the row groups that hold them are read.

        Raises:
            FrameFormatError: The table or an image is missing or damaged.
        """
        found = _read_cells(self.path, self.column, {frame.row for frame in group})
        return [decode_image(found[frame.row], str(frame)) for frame in group]


def _read_cells(path: Path, column: str, rows: set[int]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    with (
        foreign_file("a table with images", path, FIX, error=FrameFormatError),
        open_regular(path) as (file, _),
        pq.ParquetFile(file) as table,
    ):
        first = 0
        for group in range(table.num_row_groups):
            last = first + table.metadata.row_group(group).num_rows
            if inside := sorted(row for row in rows if first <= row < last):
                _check_size(table.metadata, group)
                # Some at a time: one image that stands in many rows takes no bytes until they are read.
                for cells in table.iter_batches(AT_ONCE, row_groups=[group], columns=[column]):
                    here = [row for row in inside if first <= row < first + len(cells)]
                    picked = cells.column(0).take(pa.array([row - first for row in here], pa.int64()))
                    found.update(zip(here, (cell["bytes"] for cell in picked.to_pylist()), strict=True))
                    first += len(cells)
                    if first > inside[-1]:
                        break
            first = last
    absent = sorted(row for row in rows if not found.get(row))
    if absent:
        raise _unreadable(path, f"no image in row {absent[0]} of column {column}")
    return found


def _check_size(metadata: pq.FileMetaData, group: int) -> None:
    """Raise ValueError if a row group unpacks to more than any that holds images."""
    # Not the sizes of single columns: asking for that of a damaged one ends the process (pyarrow 26.0.1).
    size = metadata.row_group(group).total_byte_size
    if size > MAX_GROUP_BYTES:
        raise ValueError(f"{size} bytes in row group {group}, of at most {MAX_GROUP_BYTES}")


def _unreadable(path: Path, reason: str) -> FrameFormatError:
    return FrameFormatError(expected=f"frames in {path}", got=reason, fix=FIX)
