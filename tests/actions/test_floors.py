"""Deviations too small to matter are not scaled up, whatever the units of a dataset."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lary_policy.actions.embodiment import ActionGroup, Embodiment
from lary_policy.actions.scaling import fit_scaling
from lary_policy.actions.statistics import ActionStats, RunningStatistics, floored

NAMES = tuple(f"{side}_{part}" for side in ("left", "right") for part in ("shoulder", "elbow", "wrist"))


def arms(names=NAMES, unit="unit"):
    """Two arms of joints in a unit that nobody states."""
    half = len(names) // 2
    return Embodiment(
        "inferred",
        tuple(
            ActionGroup(
                "joints", "joint", side, tuple(places), tuple(names[i] for i in places), "as_recorded", unit
            )
            for side, places in (("left", range(half)), ("right", range(half, len(names))))
        ),
        20.0,
    )


def motion(scale=1.0, seed=0):
    """Two arms in radians (times `scale`) of which the right wrist is idle: it deviates by 0.008 rad."""
    std = torch.tensor([0.4, 0.3, 0.2, 0.35, 0.3, 0.008], dtype=torch.float64)
    return (
        scale
        * std
        * torch.randn(500, 4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )


@pytest.mark.parametrize("scale", [1.0, 180 / np.pi, 100 / np.pi, 651.9])
def test_an_idle_joint_of_unknown_unit_is_not_scaled_up(scale):
    """Radians, degrees, per cent of half a turn, ticks of a servo: the same normalised numbers."""
    actions = motion(scale)
    stats = ActionStats.fit(actions, arms())
    own = actions.reshape(-1, 6).std(0, correction=0)
    assert stats.std[:5] == pytest.approx(own[:5].tolist())
    assert stats.std[5] == pytest.approx(0.05 * float(own[0]))
    assert stats.raised(actions) == (5,)
    assert stats.constant(actions) == ()
    torch.testing.assert_close(
        stats.normalise(actions), ActionStats.fit(motion(), arms()).normalise(motion())
    )
    # A head that misses the wrist by its own noise no longer loses most of its score there.
    error = stats.normalise(actions).square().mean((0, 1))
    assert float(error[5] / error.sum()) < 0.05


def test_names_tell_units():
    actions = motion()
    radians = ActionStats.fit(actions, arms(tuple(f"{n}_rad" for n in NAMES)))
    assert radians.std[5] == 0.02
    degrees = ActionStats.fit(actions * 180 / np.pi, arms(tuple(f"{n}.deg" for n in NAMES)))
    assert degrees.std[5] == 1.0
    assert ActionStats.fit(actions, arms(unit="rad")).std[5] == 0.02


def test_velocities_are_no_share_of_positions():
    """Numbers whose names end otherwise are of another unit."""
    names = ("shoulder.pos", "elbow.pos", "base_x.vel", "base_theta.vel")
    std = (40.0, 30.0, 0.1, 0.08)
    assert floored(std, arms(names)).tolist() == list(std)
    assert floored((40.0, 0.1, 0.1, 0.001), arms(names)).tolist() == pytest.approx([40, 2, 0.1, 0.005])


def test_joints_that_never_change_are_not_scaled_at_all():
    assert floored((0.0,) * 6, arms()).tolist() == [1.0] * 6
    assert floored((0.0, 1e-9, 2.0)).tolist() == [1.0, 1.0, 2.0]


def test_robots_told_apart_have_the_same_floors():
    actions, layout = motion(), arms()
    robots = ["a", "b"] * 250
    scaling = fit_scaling("x", "native", "absolute", actions, robots, robots, layout=layout, unknown="error")
    for robot, offset in (("a", 0), ("b", 1)):
        assert scaling.statistics.robots[robot].std == pytest.approx(
            ActionStats.fit(actions[offset::2], layout).std
        )
    theirs = fit_scaling("x", "lary", "absolute", actions, robots, robots, layout=layout, unknown="error")
    assert theirs.statistics.robots["a"].std[5] == pytest.approx(0.008, rel=0.1)
    rows = scaling.of_rows(robots[:3])
    normalised = scaling.normalise(actions[:3], robots[:3], robots[:3])
    torch.testing.assert_close(rows.denormalise(normalised), actions[:3])


def test_one_class_makes_all_statistics():
    """In one pass or in batches, of a number of dimensions that is not known before the first."""
    actions, layout = motion().numpy().reshape(-1, 6) + 1e3, arms()
    seen = RunningStatistics()
    for part in np.array_split(actions, 7):
        seen.update(part)
    whole = ActionStats.fit(torch.from_numpy(actions), layout)
    assert seen.result(layout).std == pytest.approx(whole.std, rel=1e-12)
    assert seen.result(layout).mean == pytest.approx(whole.mean, rel=1e-12)
    np.testing.assert_allclose(seen.std, actions.std(0), rtol=1e-12)
    assert seen.result(layout, share=0.2).std[5] == pytest.approx(
        max(0.01 * actions.std(0)[0], actions.std(0)[5])
    )
