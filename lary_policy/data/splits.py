"""Splits that share no recording, made from the name of each recording alone."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping, Sized
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


# What is seen at a moment, by all cameras, and what is known of it besides; None is not known.
Moments = Mapping[tuple[str, ...], Collection[tuple[Hashable, ...]]]


def find_leaks(
    tables: Mapping[str, PairTable],
    frame_ids: Mapping[Frame, str],
    scenes: Mapping[tuple[str, int | None], Hashable] | None = None,
) -> Iterator[Quarantined]:
    """Yield one problem for each pair of splits that share episodes, and one where they share moments.

    Args:
        tables: Of each split.
        frame_ids: Content ids of the frames that could be read: a copy under another name is found, too.
        scenes: What else is known of the scene, by episode and control step.
    """
    episodes = {split: {row.episode for row in table.rows} for split, table in tables.items()}
    yield from find_shared("episodes", episodes)
    yield from shared_moments({s: moments_of(table, frame_ids, scenes) for s, table in tables.items()})


def find_shared(what: str, names: Mapping[str, Collection[str]]) -> Iterator[Quarantined]:
    """Yield one problem for each pair of splits with names in common; `what` says of what, in the plural."""
    for one, other in combinations(sorted(names), 2):
        yield from _shared(what, one, other, set(names[one]) & set(names[other]), names)


def moments_of(
    table: PairTable,
    frame_ids: Mapping[Frame, str],
    scenes: Mapping[tuple[str, int | None], Hashable] | None = None,
) -> Moments:
    """Return the moments of a table by their pictures, with measured state, scene and first chunk of actions.

    Episodes may start alike, and a camera on the hand then sees the same table in many: there, what is
    done next decides.
    """
    found: dict[tuple[str, ...], set[tuple[Hashable, ...]]] = defaultdict(set)
    sources, targets = ({getattr(row, name) for row in table.rows} for name in ("src_frames", "tgt_frames"))
    for i, row in enumerate(table.rows):
        state = table.anchor_values[i].numpy().tobytes() if table.has_states else None
        chunk = None if row.src_frames in targets else table.action_values[i].numpy().tobytes()
        ends = [] if row.tgt_frames in sources else [(row.tgt_frames, row.tgt_step, None, None)]
        for frames, step, *known in [(row.src_frames, row.src_step, state, chunk), *ends]:
            if all(frame in frame_ids for frame in frames):
                scene = None if scenes is None else scenes.get((row.episode, step))
                found[tuple(frame_ids[frame] for frame in frames)].add((*known, scene))
    return found


def shared_moments(moments: Mapping[str, Moments]) -> Iterator[Quarantined]:
    """Yield one problem for each pair of splits with moments that are alike in all that is known of both."""
    for one, other in combinations(sorted(moments), 2):
        mine, theirs = moments[one], moments[other]
        shared = {" ".join(seen) for seen in mine.keys() & theirs.keys() if _alike(mine[seen], theirs[seen])}
        yield from _shared("frames", one, other, shared, moments)


def _alike(some: Collection[tuple[Hashable, ...]], others: Collection[tuple[Hashable, ...]]) -> bool:
    return any(
        all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))
        for one in some
        for other in others
    )


def _shared(
    what: str, one: str, other: str, shared: Collection[str], sizes: Mapping[str, Sized]
) -> Iterator[Quarantined]:
    if shared:
        share = len(shared) / min(len(sizes[one]), len(sizes[other]))
        reason = f"{len(shared)} {what} are in both splits ({share:.1%} of the smaller one), for example"
        yield Quarantined(f"{one} and {other}", f"{reason} {min(shared)[:80]}", "leakage")
