"""Recordings and the pairs drawn from them."""

from pathlib import Path

import pytest
import torch

from lary_policy.errors import DatasetError
from lary_policy.lam import PairSampler, Recorded


def recordings(lengths, every=1):
    rows = [
        (name, step * every, Path(f"{name}/{step}")) for name, n in enumerate(lengths) for step in range(n)
    ]
    found = Recorded.of(reversed(rows))  # order does not count
    return found.footage(found.frames, None, None)


def ends(sampler, first, second):
    """Return recording and step of both frames of each pair."""
    names = [tuple(map(int, frame.parts)) for frame in sampler.footage.frames]
    return [(names[a], names[b]) for a, b in zip(first.tolist(), second.tolist(), strict=True)]


def test_pairs_are_of_one_recording_and_as_far_apart_as_asked_for():
    sampler = PairSampler.of(recordings([9, 3, 20, 4]), 4, "here")
    drawn = ends(sampler, *sampler.draw(4000, torch.Generator().manual_seed(0)))
    assert {later[0] == earlier[0] for earlier, later in drawn} == {True}
    assert {later[1] - earlier[1] for earlier, later in drawn} == {4, 5, 6}
    assert {earlier[0] for earlier, _ in drawn} == {0, 2}
    possible = {
        ((n, a), (n, b)) for n, m in ((0, 9), (2, 20)) for a in range(m) for b in range(a + 4, min(m, a + 7))
    }
    assert set(drawn) == possible


def test_every_first_frame_is_drawn_equally_often():
    sampler = PairSampler.of(recordings([12]), 2, "here")
    first, _ = sampler.draw(20000, torch.Generator().manual_seed(1))
    counts = torch.bincount(first)
    assert int((counts > 0).sum()) == 10
    assert float(counts[counts > 0].float().std() / 2000) < 0.05


def test_a_spread_is_the_same_every_time_and_covers_all():
    sampler = PairSampler.of(recordings([30, 30]), 5, "here")
    one, again = sampler.spread(10), sampler.spread(10)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    found = ends(sampler, *one)
    assert {later[1] - earlier[1] for earlier, later in found} == {5}
    assert {earlier[0] for earlier, _ in found} == {0, 1}
    assert len(sampler.spread(10**6)[0]) == 50


def test_frames_that_are_not_there_are_left_out():
    found = Recorded.of((0, step, Path(f"0/{step}")) for step in range(10))
    kept = [frame for frame in found.frames if frame.name != "5"]
    sampler = PairSampler.of(found.footage(kept, None, None), 5, "here")
    drawn = ends(sampler, *sampler.draw(500, torch.Generator().manual_seed(0)))
    assert not any(5 in (earlier[1], later[1]) for earlier, later in drawn)
    assert ((0, 0), (0, 6)) in drawn


def test_recordings_of_several_sources_stay_apart():
    parts = [Recorded.of((0, step, Path(f"{n}/{step}")) for step in range(4)) for n in (0, 1)]
    whole = Recorded.joined(parts)
    sampler = PairSampler.of(whole.footage(whole.frames, None, None), 2, "here")
    assert {a[0] == b[0] for a, b in ends(sampler, *sampler.draw(200, torch.Generator()))} == {True}


@pytest.mark.parametrize(
    ("lengths", "offset", "words"),
    [
        ([3, 2], 5, "nearest two of one recording 1 steps apart.* Pass offset=1"),
        ([1, 1], 1, "no recording with two"),
    ],
)
def test_what_is_too_short_is_said(lengths, offset, words):
    with pytest.raises(DatasetError, match=words):
        PairSampler.of(recordings(lengths), offset, "here")
