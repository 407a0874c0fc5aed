"""Recordings and the pairs drawn from them."""

import dataclasses
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
    footage = sampler.footage
    names = [tuple(map(int, footage.frames[place].parts)) for place in footage.place.tolist()]
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


def test_states_are_those_of_their_frames():
    """Whatever order rows and recordings come in; what is not known is NaN."""
    rows = [((n, 0), 2 * t, Path(f"{n}/{t}")) for n in range(3) for t in range(4)]
    motion = {
        (name, step): (torch.tensor([10.0 * name[0] + step]), torch.tensor([-1.0, float(step)]))
        for name, step, _ in rows
        if step < 6
    }
    whole = Recorded.joined([Recorded.of(reversed(rows), motion)])
    assert whole.widths() == (1, 2)
    footage = whole.footage(whole.frames, None, None)
    states, chunks = whole.motion_of(footage)
    sampler = PairSampler.of(dataclasses.replace(footage, states=states, chunks=chunks), 2, "here")
    first, second = sampler.draw(100, torch.Generator().manual_seed(0))
    for (earlier, later), one, two, chunk in zip(
        ends(sampler, first, second), *(sampler.footage.states[x] for x in (first, second)),
        sampler.footage.chunks[first], strict=True,
    ):  # fmt: skip
        assert float(one) == 10 * earlier[0] + 2 * earlier[1]
        assert float(chunk[1]) == 2 * earlier[1]
        assert float(two) == 10 * later[0] + 2 * later[1] or (later[1] == 3 and bool(two.isnan()))


def test_states_of_two_kinds_of_robot_are_refused():
    motion = {(n, 0): (torch.zeros(n + 1), torch.zeros(3)) for n in range(2)}
    found = Recorded.of([(n, 0, Path(f"{n}")) for n in range(2)], motion)
    with pytest.raises(DatasetError, match=r"got states of 1, 2 numbers.*tasks of one robot"):
        found.widths()
    with pytest.raises(DatasetError, match=r"got none.*source with states"):
        Recorded.of([(0, 0, Path("0"))]).widths()


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
