"""Batched rotation conversions; the only file that knows rotation conventions.

Matrices are the hub: every representation converts to and from `[..., 3, 3]`.

Conventions:
    quat_wxyz: scalar first (MuJoCo). quat_xyzw: scalar last (ROS, scipy, AgiBot). Returned with w >= 0.
    euler_xyz: angles (roll, pitch, yaw) in radians about the FIXED axes x, then y, then z: R = Rz Ry Rx,
        scipy's lower-case "xyz".
    axis_angle: rotation vector in radians, norm in [0, pi].
    rot6d: first two columns of the matrix, concatenated (Zhou et al., arXiv 1812.07035, section 4.2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lary_policy.errors import ShapeError

_SMALL_ANGLE_RAD = 1e-4  # below this the Taylor series of sin(x)/x is exact to float32


def _last_dim(value: Tensor, size: int, name: str) -> None:
    if value.shape[-1] != size:
        raise ShapeError(
            expected=f"{name} of shape [..., {size}]", got=f"{tuple(value.shape)}", fix="Check the argument."
        )


def quat_xyzw_to_wxyz(quat_xyzw: Tensor) -> Tensor:
    """Move the scalar of `[..., 4]` from last to first."""
    _last_dim(quat_xyzw, 4, "a quaternion")
    return torch.cat([quat_xyzw[..., 3:], quat_xyzw[..., :3]], -1)


def quat_wxyz_to_xyzw(quat_wxyz: Tensor) -> Tensor:
    """Move the scalar of `[..., 4]` from first to last."""
    _last_dim(quat_wxyz, 4, "a quaternion")
    return torch.cat([quat_wxyz[..., 1:], quat_wxyz[..., :1]], -1)


def quat_wxyz_to_matrix(quat_wxyz: Tensor) -> Tensor:
    """Convert quaternions `[..., 4]` (normalised here) to matrices `[..., 3, 3]`."""
    _last_dim(quat_wxyz, 4, "a quaternion")
    w, x, y, z = F.normalize(quat_wxyz, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1),
        torch.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1),
        torch.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def matrix_to_quat_wxyz(matrix: Tensor) -> Tensor:
    """Convert matrices `[..., 3, 3]` to quaternions `[..., 4]` with w >= 0.

    Of the four algebraically equal formulas the one with the largest denominator is taken for each
    element (Shepperd, 1978), so the result is accurate for every rotation, half turns included.
    """
    m = matrix
    diagonal = torch.diagonal(m, dim1=-2, dim2=-1)
    m00, m11, m22 = diagonal.unbind(-1)
    squared = torch.stack(
        [1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], -1
    )
    yz, zx, xy = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    syz, szx, sxy = m[..., 2, 1] + m[..., 1, 2], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 0] + m[..., 0, 1]
    candidates = torch.stack(
        [
            torch.stack([squared[..., 0], yz, zx, xy], -1),
            torch.stack([yz, squared[..., 1], sxy, szx], -1),
            torch.stack([zx, sxy, squared[..., 2], syz], -1),
            torch.stack([xy, szx, syz, squared[..., 3]], -1),
        ],
        -2,
    )
    best = squared.argmax(-1)[..., None, None].expand(*squared.shape[:-1], 1, 4)
    quat = F.normalize(candidates.gather(-2, best).squeeze(-2), dim=-1)
    return torch.where(quat[..., :1] < 0, -quat, quat)


def quat_xyzw_to_matrix(quat_xyzw: Tensor) -> Tensor:
    """Convert scalar-last quaternions `[..., 4]` to matrices `[..., 3, 3]`."""
    return quat_wxyz_to_matrix(quat_xyzw_to_wxyz(quat_xyzw))


def matrix_to_quat_xyzw(matrix: Tensor) -> Tensor:
    """Convert matrices `[..., 3, 3]` to scalar-last quaternions `[..., 4]` with w >= 0."""
    return quat_wxyz_to_xyzw(matrix_to_quat_wxyz(matrix))


def euler_xyz_to_matrix(euler_xyz_rad: Tensor) -> Tensor:
    """Convert fixed-axis angles `[..., 3]` (rad) to matrices `[..., 3, 3]`."""
    _last_dim(euler_xyz_rad, 3, "euler angles")
    (cr, cp, cy), (sr, sp, sy) = euler_xyz_rad.cos().unbind(-1), euler_xyz_rad.sin().unbind(-1)
    rows = [
        torch.stack([cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr], -1),
        torch.stack([sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr], -1),
        torch.stack([-sp, cp * sr, cp * cr], -1),
    ]
    return torch.stack(rows, -2)


def matrix_to_euler_xyz(matrix: Tensor) -> Tensor:
    """Convert matrices `[..., 3, 3]` to fixed-axis angles `[..., 3]` (rad).

    Pitch is in [-pi/2, pi/2]. At gimbal lock (|pitch| = pi/2) roll is set to 0 and yaw takes the turn. Roll
    is read after undoing yaw, so that near the lock, where both are ill-conditioned, their errors cancel.
    """
    cos_pitch = torch.hypot(matrix[..., 0, 0], matrix[..., 1, 0])
    pitch = torch.atan2(-matrix[..., 2, 0], cos_pitch)
    locked = cos_pitch < 1e-6
    yaw_free = torch.atan2(matrix[..., 1, 0], matrix[..., 0, 0])
    yaw = torch.where(locked, torch.atan2(-matrix[..., 0, 1], matrix[..., 1, 1]), yaw_free)
    levelled = yaw.cos()[..., None] * matrix[..., 1, 1:] - yaw.sin()[..., None] * matrix[..., 0, 1:]
    roll_free = torch.atan2(-levelled[..., 1], levelled[..., 0])
    roll = torch.where(locked, torch.zeros_like(pitch), roll_free)
    return torch.stack([roll, pitch, yaw], -1)


def axis_angle_to_matrix(axis_angle_rad: Tensor) -> Tensor:
    """Convert rotation vectors `[..., 3]` (rad) to matrices `[..., 3, 3]`."""
    _last_dim(axis_angle_rad, 3, "a rotation vector")
    angle = axis_angle_rad.norm(dim=-1, keepdim=True)
    half = angle / 2
    safe = torch.where(angle < _SMALL_ANGLE_RAD, torch.ones_like(angle), angle)
    scale = torch.where(angle < _SMALL_ANGLE_RAD, 0.5 - angle**2 / 48, half.sin() / safe)
    return quat_wxyz_to_matrix(torch.cat([half.cos(), axis_angle_rad * scale], -1))


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """Convert matrices `[..., 3, 3]` to rotation vectors `[..., 3]` (rad) of norm at most pi."""
    quat = matrix_to_quat_wxyz(matrix)
    vector = quat[..., 1:]
    norm = vector.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(norm, quat[..., :1])
    safe = torch.where(norm < _SMALL_ANGLE_RAD, torch.ones_like(norm), norm)
    return vector * torch.where(norm < _SMALL_ANGLE_RAD, 2 / quat[..., :1].clamp_min(0.5), angle / safe)


def rot6d_to_matrix(rot6d: Tensor) -> Tensor:
    """Orthonormalise two columns `[..., 6]` into matrices `[..., 3, 3]` (Gram-Schmidt)."""
    _last_dim(rot6d, 6, "a 6-D rotation")
    first = F.normalize(rot6d[..., :3], dim=-1)
    second = F.normalize(rot6d[..., 3:] - (first * rot6d[..., 3:]).sum(-1, keepdim=True) * first, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1)


def matrix_to_rot6d(matrix: Tensor) -> Tensor:
    """Return the first two columns of `[..., 3, 3]`, concatenated to `[..., 6]`."""
    return torch.cat([matrix[..., 0], matrix[..., 1]], -1)


def geodesic_angle_rad(first: Tensor, second: Tensor) -> Tensor:
    """Return the angle (rad) of the rotation between two matrices `[..., 3, 3]`."""
    return matrix_to_axis_angle(first.transpose(-1, -2) @ second).norm(dim=-1)
