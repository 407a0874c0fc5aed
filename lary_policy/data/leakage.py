"""Split leakage: episodes, frames or mirrored twins that train and test data share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import combinations

from lary_policy.data.frames import Frame
from lary_policy.data.pairs import PairTable
from lary_policy.types import Quarantined


def find_leaks(tables: Mapping[str, PairTable], frame_ids: Mapping[Frame, str]) -> Iterator[Quarantined]:
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
    yield from find_shared("episodes", episodes)
    yield from find_shared("frames", frames)


def find_shared(what: str, names: Mapping[str, Collection[str]]) -> Iterator[Quarantined]:
    """Yield one problem for each pair of splits with names in common.

    Args:
        what: What the names are of, in the plural.
        names: Names in each split.
    """
    sets = {split: set(found) for split, found in names.items()}
    for one, other in combinations(sorted(sets), 2):
        shared = sorted(sets[one] & sets[other])
        if shared:
            share = len(shared) / min(len(sets[one]), len(sets[other]))
            reason = f"{len(shared)} {what} are in both splits ({share:.1%} of the smaller one), for example"
            yield Quarantined(f"{one} and {other}", f"{reason} {shared[0][:80]}", "leakage")
