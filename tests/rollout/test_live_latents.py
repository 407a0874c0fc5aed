"""What a head sees in a closed loop is what it was trained on, for every kind of encoder."""

from __future__ import annotations

import pytest
import torch

from lary_policy.encoders.base import load_encoder
from lary_policy.encoders.kinds import encode_two
from lary_policy.errors import ShapeError
from lary_policy.rollout.agents import LiveLatents

WORLDS, CAMERAS, PX = 3, 2, 28


@pytest.fixture(scope="module")
def univla():
    return load_encoder("univla", weights="tiny-random", image_px=PX)


@pytest.fixture(scope="module")
def pixels():
    return load_encoder("pixels", image_px=PX)


def frames(seed: int, *lead: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    shape = (WORLDS, *lead, CAMERAS, PX, PX, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)


def between(encoder, first, second):
    """Encode `[w c h w 3]` pair by pair: `[w c n d]`."""
    rows = [
        [encode_two(encoder, a[None], b[None])[0] for a, b in zip(*cameras, strict=True)]
        for cameras in zip(first, second, strict=True)
    ]
    return torch.stack([torch.stack(row) for row in rows])


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_policy_mode_sees_what_changed_since_the_last_plan(univla):
    live = LiveLatents(univla, None, None)
    shown = [frames(seed) for seed in range(3)]
    seen = [live(f, number, None, WORLDS) for number, f in enumerate(shown)]
    assert seen[0].shape == (WORLDS, 1, CAMERAS, 4, univla.latent.width)
    close(seen[0][:, 0], between(univla, shown[0], shown[0]))
    close(seen[1][:, 0], between(univla, shown[0], shown[1]))
    close(seen[2][:, 0], between(univla, shown[1], shown[2]))


def test_worlds_that_still_run_keep_their_own_past(univla):
    live, some = LiveLatents(univla, None, None), torch.tensor([0, 2])
    first, second, third = (frames(seed) for seed in range(3))
    live(first, 0, None, WORLDS)
    close(live(second[some], 1, some, WORLDS)[:, 0], between(univla, first[some], second[some]))
    close(live(third[some], 2, some, WORLDS)[:, 0], between(univla, second[some], third[some]))


def test_subgoal_mode_sees_what_lies_between_the_live_and_the_goal_frame(univla):
    goals, lengths = frames(9, 4), torch.tensor([4, 3, 2])
    live = LiveLatents(univla, goals, lengths)
    for chunk in range(4):
        now = frames(chunk)
        aim = [min(chunk + 1, int(n) - 1) for n in lengths]
        ahead = torch.stack([goals[w, step] for w, step in enumerate(aim)])
        seen = live(now, chunk, None, WORLDS)
        assert seen.shape[:3] == (WORLDS, 1, CAMERAS)
        close(seen[:, 0], between(univla, now, ahead))
    some = torch.tensor([1])
    close(live(now[some], 0, some, WORLDS)[:, 0], between(univla, now[some], goals[some, 1]))


def test_frame_encoders_see_both_frames(pixels):
    goals, lengths = torch.rand(WORLDS, 4, CAMERAS, 4, 588), torch.tensor([4, 3, 2])
    now = frames(0)
    seen = LiveLatents(pixels, goals, lengths)(now, 1, None, WORLDS)
    close(seen[:, 0], pixels.encode(now))
    close(seen[:, 1], torch.stack([goals[0, 2], goals[1, 2], goals[2, 1]]))
    assert LiveLatents(pixels, None, None)(now, 1, None, WORLDS).shape[1] == 1


def test_goals_of_the_wrong_kind_are_refused(univla, pixels):
    lengths = torch.tensor([4, 4, 4])
    with pytest.raises(ShapeError, match="uint8 frames"):
        LiveLatents(univla, torch.rand(WORLDS, 4, CAMERAS, 4, 8), lengths)
    with pytest.raises(ShapeError, match="latents"):
        LiveLatents(pixels, frames(0, 4), lengths)
    with pytest.raises(ShapeError, match="both or neither"):
        LiveLatents(pixels, None, lengths)
