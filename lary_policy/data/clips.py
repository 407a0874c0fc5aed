"""Labelled clips of video and the frames of each that encoders see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lary_policy.frames import Frame, VideoFrame, checked_ids, clip_frame_id, frame_id
from lary_policy.types import Quarantined


@dataclass(frozen=True, slots=True)
class ClipRow:
    """One usable row of a clip CSV.

    Attributes:
        line: Line in the CSV, the header being line 1.
        clip: Name of the clip: its path as the CSV has it.
        path: Absolute path of the video file.
        label: Class.
        indices: Frames to see, ascending; padded clips repeat the last.
        recording: What the clip was cut from; segments of one recording, forward or reversed, share it.
        csv: Name of the CSV.
        clamp: Whether an index behind the last frame means the last frame, as in the reference; otherwise it
            is an error.
        stored: Where the frames lie where `indices` are not their numbers in the file; otherwise nothing.
    """

    line: int
    clip: str
    path: Path
    label: str
    indices: tuple[int, ...]
    recording: str
    csv: str
    clamp: bool = False
    stored: tuple[Frame, ...] = ()

    def frames(self) -> tuple[Frame, ...]:
        """Return where the frames lie that encoders see."""
        return self.stored or tuple(VideoFrame(self.path, index, self.clamp) for index in self.indices)


@dataclass(frozen=True, eq=False)
class ClipTable:
    """Clips of one split.

    Attributes:
        rows: The N usable rows.
        quarantined: Rows set aside when the table was read, with reasons.
        source: The CSV it was read from (the first of several).
    """

    rows: tuple[ClipRow, ...]
    quarantined: tuple[Quarantined, ...]
    source: Path

    def __len__(self) -> int:
        return len(self.rows)

    def labels(self) -> tuple[str, ...]:
        """Return the class of each row."""
        return tuple(row.label for row in self.rows)

    def recordings(self) -> tuple[str, ...]:
        """Return the recording of each row."""
        return tuple(row.recording for row in self.rows)

    def frame_ids(self, row: ClipRow) -> tuple[str, ...]:
        """Return the id of each frame of a row, which depends on the clip's bytes and the index only.

        FrameFormatError where the file is missing or cannot be read.
        """
        if row.stored:
            return tuple(checked_ids(row.stored))
        digest = frame_id(row.path)
        return tuple(clip_frame_id(digest, index) for index in row.indices)

    def item(self, row: ClipRow) -> str:
        """Return where a row stands, for messages."""
        return f"{row.csv}:{row.line}"

    def select(self, indices: Sequence[int] | Tensor) -> ClipTable:
        """Return the table of the rows at `indices`, in that order."""
        places = torch.as_tensor(indices, dtype=torch.int64).tolist()
        return replace(self, rows=tuple(self.rows[i] for i in places))
