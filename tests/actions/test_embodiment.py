"""Action layouts, relative targets and action statistics."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lary_policy.actions.embodiment import ActionGroup, Embodiment, list_embodiments, load_embodiment
from lary_policy.actions.rotation import euler_xyz_to_matrix
from lary_policy.actions.statistics import ActionStats
from lary_policy.errors import EmbodimentError, ShapeError, UnknownNameError


def group(name="position", kind="position", indices=(0, 1, 2), convention="xyz", arm="single"):
    return ActionGroup(name, kind, arm, indices, tuple(f"{arm}_{i}" for i in indices), convention, "m")


def poses(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pose = torch.randn(*shape, 7, generator=generator, dtype=torch.float64)
    pose[..., 4] = pose[..., 4].clamp(-1.4, 1.4)  # away from gimbal lock, where roll and yaw are ambiguous
    return pose


def test_arm7_is_the_seven_number_layout():
    arm7 = load_embodiment("arm7")
    assert "arm7" in list_embodiments()
    assert arm7.action_dim == 7
    assert arm7.labels == ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    assert arm7.group_indices() == {"position": (0, 1, 2), "orientation": (3, 4, 5), "gripper": (6,)}
    assert arm7.control_hz == 20.0


def test_unknown_embodiment_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"'arm8'.*Did you mean 'arm7'\?.*arm7"):
        load_embodiment("arm8")


@pytest.mark.parametrize("indices", [(0, 1, 3), (0, 0, 1), (1, 2, 3)])
def test_indices_must_cover_every_number_once(indices):
    with pytest.raises(EmbodimentError, match="every action index exactly once"):
        Embodiment("broken", (group(indices=indices),), 10.0)


def test_labels_must_match_indices():
    wrong = dataclasses.replace(group(), labels=("x", "y"))
    with pytest.raises(EmbodimentError, match="3 labels in group position"):
        Embodiment("broken", (wrong,), 10.0)


def test_unknown_rotation_convention_is_named():
    with pytest.raises(UnknownNameError, match=r"rotation convention.*euler_xyz"):
        Embodiment("broken", (group("orientation", "rotation", convention="euler_zyx"),), 10.0)


def test_groups_of_two_arms_are_joined_by_name():
    arms = (group(arm="left"), group(arm="right", indices=(3, 4, 5)))
    assert Embodiment("two", arms, 10.0).group_indices() == {"position": (0, 1, 2, 3, 4, 5)}


def test_relative_then_absolute_is_the_identity_as_a_pose():
    arm7 = load_embodiment("arm7")
    actions, anchors = poses((11, 5)), poses((11,), seed=1)
    back = arm7.to_absolute(arm7.to_relative(actions, anchors), anchors)
    others = [0, 1, 2, 6]
    torch.testing.assert_close(back[..., others], actions[..., others])
    torch.testing.assert_close(
        euler_xyz_to_matrix(back[..., 3:6]), euler_xyz_to_matrix(actions[..., 3:6]), atol=1e-9, rtol=0
    )


def test_relative_is_difference_proper_rotation_and_absolute_gripper():
    actions, anchors = poses((3, 4)), poses((3,), seed=1)
    relative = load_embodiment("arm7").to_relative(actions, anchors)
    torch.testing.assert_close(relative[..., :3], actions[..., :3] - anchors[:, None, :3])
    torch.testing.assert_close(relative[..., 6], actions[..., 6])
    anchor = Rotation.from_euler("xyz", anchors[2, 3:6].numpy())
    target = Rotation.from_euler("xyz", actions[2, 1, 3:6].numpy())
    expected = (anchor.inv() * target).as_euler("xyz")
    np.testing.assert_allclose(relative[2, 1, 3:6].numpy(), expected, atol=1e-9)


def test_relative_rotation_is_small_across_the_wrap_of_yaw():
    arm7 = load_embodiment("arm7")
    actions, anchor = torch.zeros(1, 7), torch.zeros(7)
    actions[0, 5], anchor[5] = -math.pi + 0.01, math.pi - 0.01
    assert float(arm7.to_relative(actions, anchor)[0, 5]) == pytest.approx(0.02, abs=1e-5)


@pytest.mark.parametrize("convention", ["quat_wxyz", "quat_xyzw"])
def test_quaternion_layouts_round_trip(convention):
    layout = Embodiment(
        "quaternion", (group("orientation", "rotation", (0, 1, 2, 3), convention=convention),), 10.0
    )
    scalar = convention.index("w", 5) - 5
    quats = torch.nn.functional.normalize(
        torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    quats = quats * quats[..., scalar : scalar + 1].sign()  # the sign our conversions return
    back = layout.to_absolute(layout.to_relative(quats, quats[:, 0]), quats[:, 0])
    torch.testing.assert_close(back, quats, atol=1e-5, rtol=0)
    identity = torch.zeros(4)
    identity[scalar] = 1
    torch.testing.assert_close(layout.to_relative(quats, quats[:, 0])[0, 0], identity, atol=1e-6, rtol=0)


def test_rotation_error_is_the_geodesic_angle_in_degrees():
    first, second = torch.zeros(2, 7), torch.zeros(2, 7)
    second[1, 5] = math.radians(30)
    errors = load_embodiment("arm7").rotation_error_deg(first, second)
    assert list(errors) == ["orientation"]
    torch.testing.assert_close(errors["orientation"], torch.tensor([0.0, 30.0]), atol=1e-3, rtol=0)


def test_rotation_errors_of_two_arms_are_named_apart():
    arms = tuple(
        group("orientation", "rotation", indices, convention="euler_xyz", arm=arm)
        for arm, indices in (("left", (0, 1, 2)), ("right", (3, 4, 5)))
    )
    errors = Embodiment("two", arms, 10.0).rotation_error_deg(torch.zeros(6), torch.full((6,), 0.1))
    assert set(errors) == {"orientation/left", "orientation/right"}


@pytest.mark.parametrize(
    ("actions", "anchor"),
    [(torch.zeros(2, 5, 6), torch.zeros(2, 7)), (torch.zeros(2, 5, 7), torch.zeros(3, 7))],
)
def test_mismatched_shapes_are_refused(actions, anchor):
    with pytest.raises(ShapeError, match="anchors"):
        load_embodiment("arm7").to_relative(actions, anchor)


def test_non_finite_and_wrong_length_actions_are_refused():
    arm7 = load_embodiment("arm7")
    with pytest.raises(ShapeError, match="1 non-finite"):
        arm7.check(torch.tensor([[0.0] * 6 + [float("nan")]]))
    with pytest.raises(ShapeError, match="roll"):
        arm7.check(torch.zeros(3, 6))


def test_stats_match_numpy_and_constant_dimensions_are_named():
    actions = torch.randn(50, 5, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [2.0, 0.0, 0.1]
    )
    stats = ActionStats.fit(actions)
    flat = actions.reshape(-1, 3).double().numpy()
    np.testing.assert_allclose(stats.mean, flat.mean(0), atol=1e-12)
    np.testing.assert_allclose(np.array(stats.std)[[0, 2]], flat.std(0)[[0, 2]], atol=1e-12)
    assert stats.std[1] == 1.0
    assert stats.constant(actions) == (1,)
    assert stats.count == 250


@given(st.floats(1e-9, 1e3), st.floats(-100, 100))
def test_denormalise_inverts_normalise(scale, offset):
    actions = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).double() * scale + offset
    stats = ActionStats.fit(actions)
    torch.testing.assert_close(stats.denormalise(stats.normalise(actions)), actions, rtol=1e-9, atol=1e-9)


def test_normalised_actions_have_zero_mean_and_unit_variance():
    actions = torch.rand(200, 4, generator=torch.Generator().manual_seed(0)).double() * 7 + 3
    normal = ActionStats.fit(actions).normalise(actions)
    torch.testing.assert_close(normal.mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(normal.var(0, correction=0), torch.ones(4, dtype=torch.float64))


def test_stats_of_nothing_are_an_error():
    with pytest.raises(EmbodimentError, match="at least one action"):
        ActionStats.fit(torch.zeros(0, 5, 7))
