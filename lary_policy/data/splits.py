"""Splits that share no recording, made from the name of each recording alone."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from itertools import combinations

from lary_policy.data.pairs import PairTable
from lary_policy.errors import DatasetError
from lary_policy.frames import Frame
from lary_policy.types import Quarantined

# Shares of the recordings in native splits. Selection needs few; the rest of what is held out is reported on.
TEST_SHARE, VAL_SHARE = 0.2, 0.1
# The same shares for datasets whose episodes have numbers only, and may be few.
EPISODE_PATTERN = ("train", "val", "test", "train", "train", "train", "test", "train", "train", "train")


def split_of(recording: str, *, test_share: float = TEST_SHARE, val_share: float = VAL_SHARE) -> str:
    """Return `train`, `val` or `test` for a recording.

    It depends on the name only: on no seed, no order of rows and no other recording, so a dataset that grows
    keeps the split of what it had.
    """
    digest = hashlib.sha256(recording.encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < test_share:
        return "test"
    return "val" if place < test_share + val_share else "train"


MORE_RECORDINGS = (
    "Add recordings: about one in ten is drawn for val and one in five for test. "
    "protocol=lary takes the splits of the files instead."
)


def empty_split(
    source: str, split: str, recordings: Mapping[str, int], fix: str = MORE_RECORDINGS
) -> DatasetError:
    """Return the error of a split that no recording falls into, given how many each split has."""
    counts = ", ".join(f"{count} in {name}" for name, count in recordings.items())
    return DatasetError(
        expected=f"at least one recording in split {split} of {source}",
        got=f"{sum(recordings.values())} recordings that splits are made of: {counts}",
        fix=fix,
    )


def split_of_episode(number: int) -> str:
    """Return `train`, `val` or `test` for an episode by its number: 7, 1 and 2 of each ten in a row.

    Three episodes are enough for three splits, and a dataset that grows keeps the split of what it had. After
    the first ten, which of ten episodes are held out differs from ten to ten, so that no task that is
    recorded every tenth time falls into one split only.
    """
    block, place = divmod(number, len(EPISODE_PATTERN))
    if block == 0:
        return EPISODE_PATTERN[place]

    def draw(i: int) -> bytes:
        return hashlib.sha256(f"{block}/{i}".encode()).digest()

    rank = sorted(range(len(EPISODE_PATTERN)), key=draw).index(place)
    return EPISODE_PATTERN[rank]


def find_leaks(tables: Mapping[str, PairTable], frame_ids: Mapping[Frame, str]) -> Iterator[Quarantined]:
    """Yield one problem for each pair of splits that share episodes, and one where they share frames.

    Frames are compared by content, so a copy under another name is found, too; `frame_ids` are the content
    ids of the files that could be read.
    """
    episodes = {split: {row.episode for row in table.rows} for split, table in tables.items()}
    frames = {
        split: {frame_ids[path] for path in table.frame_paths() if path in frame_ids}
        for split, table in tables.items()
    }
    yield from find_shared("episodes", episodes)
    yield from find_shared("frames", frames)


def find_shared(what: str, names: Mapping[str, Collection[str]]) -> Iterator[Quarantined]:
    """Yield one problem for each pair of splits with names in common; `what` says of what, in the plural."""
    sets = {split: set(found) for split, found in names.items()}
    for one, other in combinations(sorted(sets), 2):
        shared = sorted(sets[one] & sets[other])
        if shared:
            share = len(shared) / min(len(sets[one]), len(sets[other]))
            reason = f"{len(shared)} {what} are in both splits ({share:.1%} of the smaller one), for example"
            yield Quarantined(f"{one} and {other}", f"{reason} {shared[0][:80]}", "leakage")
