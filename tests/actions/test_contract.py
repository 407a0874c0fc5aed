"""What head and environment must agree on before the first step."""

from __future__ import annotations

import dataclasses

import pytest

from lary_policy.actions.contract import ActionContract, require_stats
from lary_policy.actions.embodiment import load_embodiment
from lary_policy.actions.statistics import ActionStats
from lary_policy.errors import EmbodimentError

ARM7 = load_embodiment("arm7")
CONTRACT = ActionContract.of(ARM7, "relative")


def test_equal_contracts_agree_and_survive_a_dict():
    CONTRACT.require(ActionContract.of(ARM7, "relative"))
    assert ActionContract.from_dict(dataclasses.asdict(CONTRACT)) == CONTRACT


@pytest.mark.parametrize(
    ("change", "own", "theirs"),
    [
        ({"target": "absolute"}, "target relative", "target absolute"),
        ({"control_hz": 10.0}, "control_hz 20.0", "control_hz 10.0"),
        ({"labels": CONTRACT.labels[::-1]}, "labels ('x',", "labels ('gripper',"),
        ({"conventions": ("quat_xyzw unit",) * 7}, "euler_xyz rad", "quat_xyzw unit"),
        ({"embodiment": "arm12"}, "embodiment arm7", "embodiment arm12"),
    ],
)
def test_a_mismatch_prints_both_sides(change, own, theirs):
    with pytest.raises(EmbodimentError) as caught:
        CONTRACT.require(dataclasses.replace(CONTRACT, **change))
    assert own in caught.value.expected
    assert theirs in caught.value.got
    assert "of the head" in caught.value.expected


@pytest.mark.parametrize(
    ("stats", "says"),
    [
        (None, "got none"),
        (ActionStats((0.0,) * 6, (1.0,) * 6, 9), "6 means"),
        (ActionStats((0.0,) * 6 + (float("nan"),), (1.0,) * 7, 9), "finite"),
        (ActionStats((0.0,) * 7, (1.0,) * 6 + (0.0,), 9), "positive"),
    ],
)
def test_unusable_statistics_are_refused(stats, says):
    with pytest.raises(EmbodimentError, match=says):
        require_stats(stats, ARM7, "action statistics")


def test_usable_statistics_are_returned():
    stats = ActionStats((0.0,) * 7, (1.0,) * 7, 9)
    assert require_stats(stats, ARM7, "action statistics") is stats
