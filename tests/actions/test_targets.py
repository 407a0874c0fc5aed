import json
import math
from pathlib import Path

import pytest
import torch

from lary_policy.actions.embodiment import load_embodiment
from lary_policy.actions.statistics import ActionStats
from lary_policy.actions.targets import (
    action_target,
    build_targets,
    canonical,
    from_rot6d,
    list_action_targets,
    rot6d_embodiment,
    target_embodiment,
    to_rot6d,
)
from lary_policy.errors import ShapeError, UnknownNameError

NAMES = ("arm7", "arm12", "arm16")


def poses(name, *shape, seed=0):
    """Random poses whose rotations are in their conventions' own range."""
    embodiment = load_embodiment(name)
    g = torch.Generator().manual_seed(seed)
    return canonical(
        torch.randn(*shape, embodiment.action_dim, generator=g, dtype=torch.float64), embodiment
    ), embodiment


@pytest.mark.parametrize("name", NAMES)
def test_six_numbers_for_each_rotation_and_back(name):
    actions, embodiment = poses(name, 5, 4)
    layout = rot6d_embodiment(embodiment)
    rotations = sum(g.kind == "rotation" for g in embodiment.groups)
    width = sum(len(g.indices) for g in embodiment.groups if g.kind != "rotation") + 6 * rotations
    encoded = to_rot6d(actions, embodiment)
    assert encoded.shape == (5, 4, layout.action_dim) == (5, 4, width)
    assert len(set(layout.labels)) == width
    torch.testing.assert_close(from_rot6d(encoded, embodiment), actions)
    errors = layout.rotation_error_deg(encoded, encoded + 1e-9)
    assert errors.keys() == embodiment.rotation_error_deg(actions, actions).keys()
    assert list(layout.group_indices()) == list(embodiment.group_indices())


@pytest.mark.parametrize("name", NAMES)
def test_predicted_numbers_that_are_no_rotation_become_the_nearest_one(name):
    actions, embodiment = poses(name, 3)
    layout = rot6d_embodiment(embodiment)
    noisy = to_rot6d(actions, embodiment) + 0.05
    angles = embodiment.rotation_error_deg(from_rot6d(noisy, embodiment), actions)
    assert all(float(v.max()) < 10 for v in angles.values())
    assert layout.action_dim == noisy.shape[-1]


def test_d11_a_turn_past_pi_is_small_in_proper_targets_and_large_in_the_reference():
    """Angles and quaternions of LARYBench are subtracted number by number, un-wrapped and of either sign."""
    arm7 = load_embodiment("arm7")
    chunk = torch.zeros(1, 3, 7, dtype=torch.float64)
    chunk[0, :, 3] = torch.tensor([math.pi - 0.1, math.pi, -math.pi + 0.1])
    anchors = chunk[:, 0]
    lary = build_targets("relative", chunk, anchors, arm7, protocol="lary")
    proper = build_targets("relative_pose", chunk, anchors, arm7)
    assert float(lary[0, 0, 3]) == pytest.approx(-2 * math.pi + 0.2)
    assert float(proper[0, 0, 3]) == pytest.approx(0.2)
    steps = to_rot6d(chunk, arm7)[0].diff(dim=0).norm(dim=-1)
    assert float(steps.max()) < 0.15

    arm16 = load_embodiment("arm16")
    flipped = torch.zeros(1, 2, 16, dtype=torch.float64)
    flipped[0, :, 9] = flipped[0, :, 13] = 1.0
    flipped[0, 1, 6:10] *= -1  # the same rotation
    lary = build_targets("relative", flipped, flipped[:, 0], arm16, protocol="lary")
    proper = build_targets("relative_pose", flipped, flipped[:, 0], arm16)
    assert float(lary[0, 0, 9]) == -2
    assert proper[0, 0, 6:10].tolist() == [0, 0, 0, 1]
    assert torch.equal(build_targets("absolute", flipped, flipped[:, 0], arm16)[0, 0], flipped[0, 0])
    assert float(build_targets("absolute", flipped, flipped[:, 0], arm16)[0, 1, 9]) == 1


@pytest.mark.parametrize("name", NAMES)
def test_d11_relative_pose_undoes_to_the_last_pose(name):
    chunk, embodiment = poses(name, 6, 5)
    relative = build_targets("relative_pose", chunk, chunk[:, 0], embodiment)
    assert relative.shape == (6, 1, embodiment.action_dim)
    back = embodiment.to_absolute(relative, chunk[:, 0])
    for angle in embodiment.rotation_error_deg(back, chunk[:, -1:]).values():
        assert float(angle.max()) < 1e-5
    positions = list(embodiment.group_indices()["position"])
    torch.testing.assert_close(back[..., positions], chunk[:, -1:, positions])


def test_the_reference_relative_target():
    """Golden value of its `to_action_target` (recipe in test_reference_heads.py)."""
    facts = json.loads((Path(__file__).parents[1] / "golden" / "heads_reference.json").read_text())[
        "relative"
    ]
    chunk = torch.tensor(facts["chunk"])[None]
    ours = build_targets("relative", chunk, chunk[:, 0], load_embodiment("arm7"), protocol="lary")
    assert ours[0, 0].tolist() == pytest.approx(facts["target"])
    assert action_target("relative", protocol="lary").name == "displacement"
    assert action_target("relative").name == "relative"


@pytest.mark.parametrize("name", NAMES)
def test_canonical_changes_numbers_but_not_rotations(name):
    embodiment = load_embodiment(name)
    raw = (
        torch.randn(
            50, embodiment.action_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        * 4
    )
    one = canonical(raw, embodiment)
    for angle in embodiment.rotation_error_deg(raw, one).values():
        assert float(angle.max()) < 1e-5
    torch.testing.assert_close(canonical(one, embodiment), one)
    for group in embodiment.groups:
        values = one[:, list(group.indices)]
        if group.convention == "euler_xyz":
            assert float(values.abs().max()) <= math.pi
        elif group.convention == "quat_xyzw":
            assert float(values[:, 3].min()) >= 0
        else:
            assert torch.equal(values, raw[:, list(group.indices)])


def test_steps_and_layouts_of_targets():
    assert list_action_targets() == ("absolute", "relative", "relative_pose", "displacement")
    assert [action_target(n).steps(5) for n in list_action_targets()] == [5, 5, 1, 1]
    chunk, arm7 = poses("arm7", 4, 5)
    for name in list_action_targets():
        targets = build_targets(name, chunk, chunk[:, 0], arm7, rotation="rot6d")
        assert targets.shape == (4, action_target(name).steps(5), target_embodiment(arm7, "rot6d").action_dim)
        stats = ActionStats.fit(targets, target_embodiment(arm7, "rot6d"))
        assert torch.isfinite(stats.normalise(targets)).all()
    torch.testing.assert_close(
        build_targets("relative", chunk, chunk[:, 0], arm7), arm7.to_relative(chunk, chunk[:, 0])
    )


def test_unknown_names_and_wrong_widths_are_refused():
    chunk, arm7 = poses("arm7", 4, 5)
    with pytest.raises(UnknownNameError, match="absolute, displacement, relative, relative_pose"):
        action_target("delta")
    with pytest.raises(UnknownNameError, match="native, rot6d"):
        build_targets("absolute", chunk, chunk[:, 0], arm7, rotation="euler")
    with pytest.raises(ShapeError, match=r"\[\.\.\., 7\]"):
        to_rot6d(chunk[..., :6], arm7)
