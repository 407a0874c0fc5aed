"""Split leakage: episodes or frames that train and test data share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path

from lary_policy.data.pairs import PairTable
from lary_policy.types import Quarantined


def find_leaks(tables: Mapping[str, PairTable], frame_ids: Mapping[Path, str]) -> Iterator[Quarantined]:
    """Yield one problem for each pair of splits that share episodes, and one where they share frames.

    Frames are compared by content, so a copy under another name is found, too.

    Args:
        tables: Pair table of each split.
        frame_ids: Content id of each frame file that could be read.
    """
    episodes = {split: {row.episode for row in table.rows} for split, table in tables.items()}
    frames = {
        split: {frame_ids[path] for path in table.frame_paths() if path in frame_ids}
        for split, table in tables.items()
    }
    for what, sets in (("episodes", episodes), ("frames", frames)):
        for one, other in combinations(sorted(sets), 2):
            shared = sorted(sets[one] & sets[other])
            if shared:
                reason = f"{len(shared)} {what} are in both splits, for example {shared[0][:40]}"
                yield Quarantined(f"{one} and {other}", reason, "leakage")
