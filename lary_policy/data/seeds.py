"""Which clips of SSv2 and EgoDex the benchmark needs, and where each is cut (protocol section 1.7)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lary_policy.data.pair_csv import read_metadata

SEED_COLUMNS = ("video_path", "seed_output")
DATASETS = ("SSv2", "EgoDex")
_TIMES = re.compile(r"(\d+\.?\d*)\s*-\s*(\d+\.?\d*)")


@dataclass(frozen=True, slots=True)
class Cut:
    """One clip to be made.

    Attributes:
        clip: Its path below the folder of all clips, e.g. `SSv2/17_0_rev.mp4`.
        source: The original video, below the root of its dataset.
        dataset: `SSv2` or `EgoDex`.
        start_s: Where it begins.
        duration_s: How long it is.
        reverse: Whether its frames are in reverse order.
    """

    clip: str
    source: str
    dataset: str
    start_s: float
    duration_s: float
    reverse: bool


def parse_segments(text: str) -> tuple[tuple[int, float, float], ...]:
    """Return (line number, start, duration) in seconds of each segment in an annotation.

    All lines count for the number, blank ones and those without times too; a backslash with an n ends a line
    as well. Of each line the first `<start> - <end>` counts; segments without length are left out.
    """
    segments = []
    for number, line in enumerate(text.replace("\\n", "\n").strip().split("\n")):
        found = _TIMES.search(line)
        if found is None:
            continue
        start, end = float(found[1]), float(found[2])
        duration = round(end - start, 2)
        if duration > 0:
            segments.append((number, start, duration))
    return tuple(segments)


def required_clips(metadata: Iterable[Path]) -> frozenset[str]:
    """Return the paths of all SSv2 and EgoDex clips in the CSVs of `human_1st`.

    Raises:
        DatasetError: A CSV cannot be read or lacks the columns dataset and video_path.
    """
    return frozenset(
        row["video_path"]
        for path in metadata
        for row in read_metadata(path, ("dataset", "video_path"))[1]
        if row["dataset"] in DATASETS
    )


def plan_cuts(seeds: Path, dataset: str) -> Iterator[Cut]:
    """Yield every clip, forward and reversed, that the annotations of a dataset describe.

    Args:
        seeds: `seed_ssv2.csv` or `seed_egodex.csv`.
        dataset: `SSv2` or `EgoDex`.

    Raises:
        DatasetError: The CSV cannot be read or lacks a column.
    """
    _, rows = read_metadata(seeds, SEED_COLUMNS)
    for number, row in enumerate(rows):
        original = PurePosixPath(row["video_path"] or "")
        folder, source = _PLACES[dataset](original)
        for line, start, duration in parse_segments(row["seed_output"] or ""):
            for reverse, suffix in ((False, ""), (True, "_rev")):
                clip = f"{folder}/{number}_{line}{suffix}.mp4"
                yield Cut(clip, source, dataset, start, duration, reverse)


def _ssv2(original: PurePosixPath) -> tuple[str, str]:
    return "SSv2", original.name


def _egodex(original: PurePosixPath) -> tuple[str, str]:
    """Return folder and source: what follows `unzipped/` in the path lies below the dataset's root."""
    _, separator, below = str(original).partition("unzipped/")
    return f"EgoDex/{original.stem}", below if separator else original.name


_PLACES = {"SSv2": _ssv2, "EgoDex": _egodex}
