"""Rotation conversions against scipy, over random rotations and the cases where formulas break."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lary_policy.actions import rotation as rot
from lary_policy.errors import ShapeError

ATOL = 1e-9  # of float64 matrices
angles = st.floats(-math.pi, math.pi, allow_nan=False)
axes = st.tuples(*[st.floats(-1, 1, allow_nan=False)] * 3).filter(lambda v: np.linalg.norm(v) > 1e-3)
turns = st.one_of(
    st.floats(0, math.pi),
    st.sampled_from([0.0, 1e-12, 1e-8, 1e-5, 0.9999e-4, 1.0001e-4, math.pi - 1e-9, math.pi]),
)


def unit(axis):
    return np.asarray(axis) / np.linalg.norm(axis)


rotations = st.builds(lambda axis, turn: Rotation.from_rotvec(unit(axis) * turn), axes, turns)
locked = st.builds(
    lambda roll, sign, yaw: Rotation.from_euler("xyz", [roll, sign * math.pi / 2, yaw]),
    angles,
    st.sampled_from([-1, 1]),
    angles,
)
any_rotation = st.one_of(rotations, locked)


def tensor(value):
    return torch.tensor(np.asarray(value), dtype=torch.float64)


def assert_same_rotation(matrix, reference, atol=ATOL):
    np.testing.assert_allclose(matrix.numpy(), reference.as_matrix(), atol=atol)


@given(rotations)
def test_both_quaternion_orders_to_matrix_match_scipy(reference):
    xyzw = tensor(reference.as_quat())
    wxyz = tensor(reference.as_quat(scalar_first=True))
    assert_same_rotation(rot.quat_xyzw_to_matrix(xyzw), reference)
    assert_same_rotation(rot.quat_wxyz_to_matrix(wxyz), reference)
    torch.testing.assert_close(rot.quat_xyzw_to_wxyz(xyzw), wxyz)
    torch.testing.assert_close(rot.quat_wxyz_to_xyzw(wxyz), xyzw)


@given(rotations, st.floats(0.1, 10))
def test_quaternions_need_not_be_normalised_and_both_signs_agree(reference, scale):
    quat = tensor(reference.as_quat(scalar_first=True))
    assert_same_rotation(rot.quat_wxyz_to_matrix(scale * quat), reference)
    assert_same_rotation(rot.quat_wxyz_to_matrix(-scale * quat), reference)


@given(any_rotation)
def test_matrix_to_quaternion_matches_scipy_up_to_sign_and_has_positive_scalar(reference):
    ours = rot.matrix_to_quat_wxyz(tensor(reference.as_matrix()))
    theirs = reference.as_quat(scalar_first=True)
    assert ours[0] >= 0
    assert abs(abs(float(np.dot(ours.numpy(), theirs))) - 1) < 1e-12
    assert_same_rotation(rot.quat_wxyz_to_matrix(ours), reference)
    torch.testing.assert_close(
        rot.matrix_to_quat_xyzw(tensor(reference.as_matrix())), rot.quat_wxyz_to_xyzw(ours)
    )


@given(angles, angles, angles)
def test_euler_to_matrix_matches_scipys_extrinsic_xyz(roll, pitch, yaw):
    matrix = rot.euler_xyz_to_matrix(tensor([roll, pitch, yaw]))
    assert_same_rotation(matrix, Rotation.from_euler("xyz", [roll, pitch, yaw]))


@given(any_rotation)
def test_matrix_to_euler_is_in_range_and_gives_the_same_rotation(reference):
    euler = rot.matrix_to_euler_xyz(tensor(reference.as_matrix()))
    assert abs(float(euler[1])) <= math.pi / 2 + 1e-12
    # Within 1e-6 of gimbal lock roll is set to 0, which moves the matrix by at most that much.
    assert_same_rotation(rot.euler_xyz_to_matrix(euler), reference, atol=3e-6)


@given(angles, st.floats(-1.5, 1.5), angles)
def test_euler_round_trip_returns_the_angles_away_from_gimbal_lock(roll, pitch, yaw):
    euler = tensor([roll, pitch, yaw])
    back = rot.matrix_to_euler_xyz(rot.euler_xyz_to_matrix(euler))
    difference = (back - euler + math.pi) % (2 * math.pi) - math.pi
    assert float(difference.abs().max()) < 1e-7


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gimbal_lock_puts_the_whole_turn_into_yaw(sign, dtype):
    euler = torch.tensor([0.3, sign * math.pi / 2, 1.1], dtype=dtype)
    back = rot.matrix_to_euler_xyz(rot.euler_xyz_to_matrix(euler))
    assert float(back[0]) == pytest.approx(0, abs=1e-6)
    matrix = rot.euler_xyz_to_matrix(back)
    torch.testing.assert_close(matrix, rot.euler_xyz_to_matrix(euler), atol=2e-6, rtol=0)


@given(angles, st.floats(-7, -1), angles)
def test_float32_near_gimbal_lock_keeps_the_rotation(roll, log_gap, yaw):
    """Roll and yaw are each ill-conditioned there, but their errors must cancel."""
    euler = torch.tensor([roll, math.pi / 2 - 10**log_gap, yaw])
    other = rot.euler_xyz_to_matrix(torch.tensor([0.4, -0.9, 2.0]))
    matrix = other @ (other.T @ rot.euler_xyz_to_matrix(euler))  # rounding noise in every entry
    back = rot.euler_xyz_to_matrix(rot.matrix_to_euler_xyz(matrix))
    torch.testing.assert_close(back, matrix, atol=3e-6, rtol=0)


@given(axes, turns)
def test_axis_angle_to_matrix_matches_scipy(axis, turn):
    vector = unit(axis) * turn
    assert_same_rotation(rot.axis_angle_to_matrix(tensor(vector)), Rotation.from_rotvec(vector))


@given(any_rotation)
def test_matrix_to_axis_angle_matches_scipy(reference):
    ours = rot.matrix_to_axis_angle(tensor(reference.as_matrix()))
    assert float(ours.norm()) <= math.pi + 1e-12
    assert_same_rotation(rot.axis_angle_to_matrix(ours), reference, atol=1e-8)
    assert float(ours.norm()) == pytest.approx(reference.magnitude(), abs=1e-7)


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, -1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_turns_survive_every_representation(axis, dtype):
    vector = torch.tensor(unit(axis) * math.pi, dtype=dtype)
    matrix = rot.axis_angle_to_matrix(vector)
    assert_same_rotation(matrix, Rotation.from_rotvec(unit(axis) * math.pi), atol=1e-6)
    for there, back in (
        (rot.matrix_to_quat_wxyz, rot.quat_wxyz_to_matrix),
        (rot.matrix_to_quat_xyzw, rot.quat_xyzw_to_matrix),
        (rot.matrix_to_axis_angle, rot.axis_angle_to_matrix),
        (rot.matrix_to_euler_xyz, rot.euler_xyz_to_matrix),
        (rot.matrix_to_rot6d, rot.rot6d_to_matrix),
    ):
        torch.testing.assert_close(back(there(matrix)), matrix, atol=5e-6, rtol=0)


@given(axes, st.floats(1e-8, 1e-3))
def test_tiny_angles_keep_their_relative_accuracy(axis, turn):
    vector = tensor(unit(axis) * turn)
    back = rot.matrix_to_axis_angle(rot.axis_angle_to_matrix(vector))
    torch.testing.assert_close(back, vector, rtol=1e-6, atol=1e-14)


def test_zero_rotation_is_exact_and_differentiable():
    vector = torch.zeros(3, requires_grad=True)
    matrix = rot.axis_angle_to_matrix(vector)
    torch.testing.assert_close(matrix, torch.eye(3))
    assert torch.equal(rot.matrix_to_axis_angle(torch.eye(3)), torch.zeros(3))
    matrix[0, 1].backward()
    torch.testing.assert_close(vector.grad, torch.tensor([0.0, 0.0, -1.0]))


@given(any_rotation)
def test_rot6d_round_trip_and_layout(reference):
    matrix = tensor(reference.as_matrix())
    rot6d = rot.matrix_to_rot6d(matrix)
    torch.testing.assert_close(rot6d[:3], matrix[:, 0])
    torch.testing.assert_close(rot6d[3:], matrix[:, 1])
    assert_same_rotation(rot.rot6d_to_matrix(rot6d), reference)


@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6))
def test_rot6d_of_anything_independent_is_a_rotation(values):
    rot6d = tensor(values)
    if np.linalg.norm(np.cross(values[:3], values[3:])) < 1e-3:
        return
    matrix = rot.rot6d_to_matrix(rot6d)
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(3, dtype=torch.float64), atol=1e-7, rtol=0)
    assert float(torch.linalg.det(matrix)) == pytest.approx(1, abs=1e-7)


@given(any_rotation, any_rotation)
def test_geodesic_angle_matches_scipy_and_is_symmetric(first, second):
    a, b = tensor(first.as_matrix()), tensor(second.as_matrix())
    expected = (first.inv() * second).magnitude()
    assert float(rot.geodesic_angle_rad(a, b)) == pytest.approx(expected, abs=1e-7)
    assert float(rot.geodesic_angle_rad(b, a)) == pytest.approx(expected, abs=1e-7)


@given(any_rotation)
def test_geodesic_angle_to_itself_is_zero(reference):
    matrix = tensor(reference.as_matrix())
    assert float(rot.geodesic_angle_rad(matrix, matrix)) < 1e-7


@pytest.mark.parametrize(
    ("function", "size"),
    [
        (rot.quat_wxyz_to_matrix, 4),
        (rot.quat_xyzw_to_matrix, 4),
        (rot.euler_xyz_to_matrix, 3),
        (rot.axis_angle_to_matrix, 3),
        (rot.rot6d_to_matrix, 6),
    ],
)
def test_batches_equal_single_elements_and_wrong_sizes_are_refused(function, size):
    values = torch.randn(2, 5, size, generator=torch.Generator().manual_seed(0))
    batched = function(values)
    assert batched.shape == (2, 5, 3, 3)
    torch.testing.assert_close(batched[1, 3], function(values[1, 3]))
    with pytest.raises(ShapeError, match=rf"\[\.\.\., {size}\]"):
        function(torch.zeros(2, size + 1))


@pytest.mark.parametrize(
    "function",
    [rot.matrix_to_quat_wxyz, rot.matrix_to_euler_xyz, rot.matrix_to_axis_angle, rot.matrix_to_rot6d],
)
def test_inverse_conversions_are_batched(function):
    matrices = tensor(Rotation.random(12, rng=0).as_matrix()).view(3, 4, 3, 3)
    batched = function(matrices)
    assert batched.shape[:2] == (3, 4)
    torch.testing.assert_close(batched[2, 1], function(matrices[2, 1]))


@settings(max_examples=30)
@given(any_rotation)
def test_float32_is_accurate_to_a_microradian_scale(reference):
    matrix = tensor(reference.as_matrix()).float()
    back = rot.quat_wxyz_to_matrix(rot.matrix_to_quat_wxyz(matrix))
    torch.testing.assert_close(back, matrix, atol=2e-6, rtol=0)
