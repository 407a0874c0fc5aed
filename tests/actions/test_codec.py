"""The codec between what heads predict and absolute targets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lary_policy.actions.codec import ActionCodec, RelativeFrame, relative_mask
from lary_policy.actions.embodiment import load_embodiment
from lary_policy.actions.statistics import ActionStats
from lary_policy.errors import EmbodimentError, ShapeError

EMBODIMENTS = ("arm7", "arm12", "arm16")


def stats(size, rng):
    mean, std = torch.randn(size, generator=rng), torch.rand(size, generator=rng) + 0.1
    return ActionStats(tuple(mean.tolist()), tuple(std.tolist()), 100)


def canonical_poses(layout, count, rng):
    """Poses whose rotations are in the form that the layout's conversions return."""
    poses = torch.rand(count, layout.action_dim, generator=rng) - 0.5
    for group in layout.groups:
        if group.kind == "rotation" and group.convention.startswith("quat"):
            real = 0 if group.convention == "quat_wxyz" else 3
            quat = poses[:, group.place]
            quat[:, real] = quat[:, real].abs() + 0.5
            poses[:, group.place] = quat / quat.norm(dim=-1, keepdim=True)
    return poses


@settings(max_examples=30, deadline=None)
@given(st.sampled_from((None, *EMBODIMENTS)), st.booleans(), st.integers(1, 5), st.integers(0, 2**20))
def test_recorded_actions_come_back(embodiment, delta, chunk, seed):
    rng = torch.Generator().manual_seed(seed)
    layout = load_embodiment(embodiment or "arm7")
    size = layout.action_dim
    frame = RelativeFrame.of(size, embodiment=embodiment, exclude=["gripper"], names=layout.labels)
    codec = ActionCodec(frame, delta=delta, action_dim=size, state_dim=size)
    codec.fit(stats(size, rng), stats(size, rng))
    actions = canonical_poses(layout, 3 * chunk, rng).view(3, chunk, size)
    state = canonical_poses(layout, 3, rng)
    normalised = codec.encode(frame.to_relative(actions, state))
    torch.testing.assert_close(codec.absolute(normalised, state), actions, atol=1e-4, rtol=0)
    torch.testing.assert_close(codec.decode(normalised), frame.to_relative(actions, state), atol=1e-4, rtol=0)


@pytest.mark.parametrize("target", ["absolute", "relative"])
@pytest.mark.parametrize("embodiment", EMBODIMENTS)
def test_a_probes_head_is_decoded_by_its_layout(embodiment, target):
    """Bit for bit: standardised numbers, then the embodiment's own float32 arithmetic."""
    rng = torch.Generator().manual_seed(1)
    layout = load_embodiment(embodiment)
    size = layout.action_dim
    known, seen = stats(size, rng), stats(size, rng)
    codec = ActionCodec.of(layout, known, target, seen)
    head, state = torch.randn(4, 3, size, generator=rng), canonical_poses(layout, 4, rng)
    chunk = head * torch.tensor(known.std) + torch.tensor(known.mean)
    want = layout.to_absolute(chunk, state, check=False) if target == "relative" else chunk
    assert torch.equal(codec.absolute(head, state), want)
    assert torch.equal(codec.state(state), (state - torch.tensor(seen.mean)) / torch.tensor(seen.std))
    assert ActionCodec.of(layout, known, target, None).state(state) is None
    with pytest.raises(ShapeError, match=f"chunks .w k {size}."):
        codec.absolute(head[..., 1:], state)


def test_numbers_are_subtracted_and_left_alone_as_lerobot_does():
    from lerobot.processor import RelativeActionsProcessorStep, to_absolute_actions, to_relative_actions

    rng = torch.Generator().manual_seed(0)
    names = ["Shoulder.pos", "wrist_roll", "GRIPPER_left", "gripper"]
    for exclude, known in ((["gripper"], names), (["gripper", ""], names[:3]), ([], names), (["x"], None)):
        step = RelativeActionsProcessorStep(enabled=True, exclude_joints=exclude, action_names=known)
        mask = relative_mask(4, exclude, known)
        assert mask == tuple(step._build_mask(4))
        frame = RelativeFrame(mask)
        for shape in ((5, 4), (5, 3, 4)):
            actions, state = torch.randn(shape, generator=rng), torch.randn(5, 6, generator=rng)
            assert torch.equal(frame.to_relative(actions, state), to_relative_actions(actions, state, mask))
            assert torch.equal(frame.to_absolute(actions, state), to_absolute_actions(actions, state, mask))


def test_statistics_are_looked_for_before_they_are_used():
    codec = ActionCodec(RelativeFrame((True,) * 2), action_dim=2, state_dim=2)
    with pytest.raises(EmbodimentError, match="statistics of relative actions"):
        codec.decode(torch.zeros(1, 1, 2))
    known = ActionStats((0.0, 0.0), (1.0, 1.0), 1)
    codec.fit(known, None)  # the head sees a state, whose statistics are missing
    with pytest.raises(EmbodimentError, match="state"):
        codec.state(torch.zeros(1, 2))
    for damaged in (ActionStats((0.0, 0.0), (1.0, 0.0), 1), ActionStats((0.0, float("nan")), (1.0, 1.0), 1)):
        codec.fit(damaged, known)
        with pytest.raises(EmbodimentError, match=r"deviations above 0; got \[0\.0, .*undamaged checkpoint"):
            codec.decode(torch.zeros(1, 1, 2))
    codec.fit(known, known)
    assert torch.equal(codec.decode(torch.ones(1, 1, 2)), torch.ones(1, 1, 2))
