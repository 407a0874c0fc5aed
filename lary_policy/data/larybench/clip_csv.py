"""Reader of LARYBench clip CSVs: path, class and the frames to see (protocol sections 1.3 and 3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath

from lary_policy.data.clips import ClipRow, ClipTable
from lary_policy.data.larybench.pair_csv import usable_rows
from lary_policy.data.larybench.pair_rows import Cells, PairFile, class_of
from lary_policy.data.layout import is_count
from lary_policy.errors import DatasetError

CLIP_COLUMNS = ("video_path", "action", "sample_indices")
_SEGMENT = re.compile(r"(_\d+)?(_rev)?$")


def recording_of(video_path: str) -> str:
    """Return what a clip was cut from: its path without extension, segment number and `_rev`.

    Clips are named `<recording>_<segment>[_rev].mp4` (protocol section 1.7), so that segments of one video
    and their reversed twins share a recording.
    """
    path = PurePosixPath(video_path)
    return str(path.parent / _SEGMENT.sub("", path.stem))


def read_clips(files: Sequence[PairFile], *, clamp: bool) -> ClipTable:
    """Read the rows of one or more clip CSVs of a dataset; videos are not opened here.

    A row without file, class or frame numbers, or whose path leaves the root, is quarantined. `clamp` is that
    of `ClipRow`. DatasetError where no row is usable.
    """
    rows, quarantined = usable_rows(files, partial(_row, clamp=clamp), "read_clips")
    return ClipTable(tuple(rows), tuple(quarantined), files[0].path)


def parse_indices(text: str) -> tuple[int, ...]:
    """Return the frame numbers in a cell like `3,8,13`.

    DatasetError where they are missing, negative or not ascending (a repeated last one is padding).
    """
    parts = [part.strip() for part in text.split(",")]
    numbers = tuple(int(part) for part in parts if is_count(part))
    if len(numbers) != len(parts) or list(numbers) != sorted(numbers):
        raise DatasetError(
            expected="ascending frame numbers like 3,8,13 in sample_indices",
            got=f"'{text}'",
            fix="Run `lary data indices` for this CSV.",
        )
    return numbers


def _row(file: PairFile, line: int, cells: Cells, *, clamp: bool) -> ClipRow:
    video = cells["video_path"]
    path = file.resolver(video, "")
    if not path.is_file():
        raise DatasetError(
            expected=f"a video at {path}",
            got="no such file",
            fix="Restore the file; clips of SSv2 and EgoDex are made with `lary data prepare`.",
        )
    label = class_of(cells)
    indices = parse_indices(cells["sample_indices"])
    return ClipRow(line, video, path, label, indices, recording_of(video), file.path.name, clamp)
