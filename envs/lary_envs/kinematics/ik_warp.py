"""Inverse kinematics of every arm in every world in one kernel launch.

Torch tensors go in and out without a copy, on torch's current stream, so that a CUDA graph may capture it.
One move takes, on one CPU core, 0.05 ms for 1 arm and 1.1 ms for 1,024 (`TorchIk`: 1.1 and 7 ms), but a
process pays 0.6 s to import Warp and, the first time on a machine, 2 s to compile the kernel.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
import warp as wp
from torch import Tensor

from lary_envs.devices import init_warp
from lary_envs.kinematics.chain import TorchChain
from lary_envs.kinematics.ik import ARRIVED_M, TURN_M_PER_RAD
from lary_envs.kinematics.solver import IkSettings, IkState
from lary_policy.errors import SimulationError

# mypy: disable-error-code="index, operator, arg-type, call-overload, valid-type, misc"
# Warp compiles these functions; what they do with its vectors and matrices is no Python.


MAX_JOINTS = 7  # of an arm; storage is of this size for every arm
_vec6, _mat66 = wp.types.vector(6, wp.float64), wp.types.matrix((6, 6), wp.float64)
_vec7, _mat67 = wp.types.vector(MAX_JOINTS, wp.float64), wp.types.matrix((6, MAX_JOINTS), wp.float64)
_mat37 = wp.types.matrix((3, MAX_JOINTS), wp.float64)
_SMALL = wp.constant(wp.float64(1e-12))
_ARRIVED, _TURN_M = wp.constant(wp.float64(ARRIVED_M)), wp.constant(wp.float64(TURN_M_PER_RAD))


@wp.struct
class Arms:
    """Constants of A arms, as in `TorchChain`; `max_move` is the largest change of a joint in one move."""

    num_joints: wp.int32
    base: wp.array(dtype=wp.mat44d)
    links: wp.array2d(dtype=wp.mat44d)
    tool: wp.array(dtype=wp.mat44d)
    lower: wp.array2d(dtype=wp.float64)
    upper: wp.array2d(dtype=wp.float64)
    home: wp.array2d(dtype=wp.float64)
    max_move: wp.array2d(dtype=wp.float64)


@wp.struct
class Settings:
    """The numbers of `IkSettings`."""

    max_step_m: wp.float64
    max_step_rad: wp.float64
    iterations: wp.int32
    damping: wp.float64
    strong_damping: wp.float64
    null_gain: wp.float64
    max_joint_step_rad: wp.float64


@wp.func
def _pos(frame: wp.mat44d) -> wp.vec3d:
    return wp.vec3d(frame[0, 3], frame[1, 3], frame[2, 3])


@wp.func
def _rot(frame: wp.mat44d) -> wp.mat33d:
    return wp.mat33d(
        frame[0, 0], frame[0, 1], frame[0, 2],
        frame[1, 0], frame[1, 1], frame[1, 2],
        frame[2, 0], frame[2, 1], frame[2, 2],
    )  # fmt: skip


@wp.func
def _about_z(frame: wp.mat44d, angle: wp.float64) -> wp.mat44d:
    """Turn a frame about its own z axis."""
    c, s = wp.cos(angle), wp.sin(angle)
    for k in range(3):
        x, y = frame[k, 0], frame[k, 1]
        frame[k, 0] = x * c + y * s
        frame[k, 1] = y * c - x * s
    return frame


@wp.func
def _turn_xyz(roll: wp.float64, pitch: wp.float64, yaw: wp.float64) -> wp.mat33d:
    """Return the rotation by angles about the fixed axes x, y and z."""
    cr, cp, cy = wp.cos(roll), wp.cos(pitch), wp.cos(yaw)
    sr, sp, sy = wp.sin(roll), wp.sin(pitch), wp.sin(yaw)
    return wp.mat33d(
        cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr,
        sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr,
        -sp, cp * sr, cp * cr,
    )  # fmt: skip


@wp.func
def _limit(vector: wp.vec3d, longest: wp.float64) -> wp.vec3d:
    return vector * wp.min(longest / wp.max(wp.length(vector), _SMALL), wp.float64(1.0))


@wp.func
def _rotation_vector(matrix: wp.mat33d) -> wp.vec3d:
    """Return axis times angle, the angle in [0, pi]."""
    quat = wp.normalize(wp.quat_from_matrix(matrix))
    vector = wp.vec3d(quat[0], quat[1], quat[2])
    real, norm = quat[3], wp.length(vector)
    if real < wp.float64(0.0):
        vector, real = -vector, -real
    if norm < _SMALL:
        return wp.float64(2.0) * vector
    return vector * (wp.float64(2.0) * wp.atan2(norm, real) / norm)


@wp.func
def _turned_by(vector: wp.vec3d, matrix: wp.mat33d) -> wp.mat33d:
    """Return `matrix` turned by a rotation vector."""
    angle = wp.length(vector)
    if angle < _SMALL:
        return matrix
    return wp.quat_to_matrix(wp.quat_from_axis_angle(vector / angle, angle)) * matrix


@wp.func
def _solve_spd(a: _mat66, b: _vec6) -> _vec6:
    """Solve a x = b for a symmetric positive definite matrix by Cholesky's method."""
    low, x = _mat66(), _vec6()
    for j in range(6):
        rest = a[j, j]
        for k in range(j):
            rest -= low[j, k] * low[j, k]
        low[j, j] = wp.sqrt(rest)
        for i in range(j + 1, 6):
            rest = a[i, j]
            for k in range(j):
                rest -= low[i, k] * low[j, k]
            low[i, j] = rest / low[j, j]
    for i in range(6):
        rest = b[i]
        for k in range(i):
            rest -= low[i, k] * x[k]
        x[i] = rest / low[i, i]
    for r in range(6):
        i = 5 - r
        rest = x[i]
        for k in range(i + 1, 6):
            rest -= low[k, i] * x[k]
        x[i] = rest / low[i, i]
    return x


@wp.func
def _jacobian(arms: Arms, arm: int, q: _vec7) -> tuple[wp.mat44d, _mat67]:
    """Return the TCP frame and the Jacobian (linear over angular); columns beyond the joints are zero."""
    frame = arms.base[arm]
    axes, origins = _mat37(), _mat37()
    for i in range(arms.num_joints):
        frame = _about_z(frame * arms.links[arm, i], q[i])
        for k in range(3):
            axes[k, i] = frame[k, 2]
            origins[k, i] = frame[k, 3]
    frame = frame * arms.tool[arm]
    jacobian = _mat67()
    for i in range(arms.num_joints):
        axis = wp.vec3d(axes[0, i], axes[1, i], axes[2, i])
        linear = wp.cross(axis, _pos(frame) - wp.vec3d(origins[0, i], origins[1, i], origins[2, i]))
        for k in range(3):
            jacobian[k, i] = linear[k]
            jacobian[k + 3, i] = axis[k]
    return frame, jacobian


@wp.func
def _error(pos: wp.vec3d, rot: wp.mat33d, frame: wp.mat44d) -> _vec6:
    """Return what is missing from a frame to the goal, linear over angular."""
    way, turn = pos - _pos(frame), _rotation_vector(rot * wp.transpose(_rot(frame)))
    return _vec6(way[0], way[1], way[2], turn[0], turn[1], turn[2])


@wp.func
def _distance(error: _vec6) -> wp.float64:
    way, turn = wp.vec3d(error[0], error[1], error[2]), wp.vec3d(error[3], error[4], error[5])
    return wp.length(way) + _TURN_M * wp.length(turn)


@wp.func
def _step(
    arms: Arms, settings: Settings, arm: int, q: _vec7, jacobian: _mat67, error: _vec6, strong: wp.bool
) -> _vec7:
    """Return the joints after one least-squares step, with much damping if `strong`."""
    pull = _vec7()
    damping = wp.where(strong, settings.strong_damping, settings.damping)
    for i in range(arms.num_joints):
        pull[i] = settings.null_gain * (arms.home[arm, i] - q[i])
    gram = jacobian * wp.transpose(jacobian)
    for k in range(6):
        gram[k, k] = gram[k, k] + damping * damping
    step = wp.transpose(jacobian) * _solve_spd(gram, error - jacobian * pull) + pull
    for i in range(arms.num_joints):
        step[i] = wp.clamp(step[i], -settings.max_joint_step_rad, settings.max_joint_step_rad)
    return q + step


@wp.kernel(enable_backward=False)
def ik_move(
    arms: Arms,
    settings: Settings,
    target: wp.array3d(dtype=wp.float64),
    joints: wp.array3d(dtype=wp.float64),
    goal_pos: wp.array2d(dtype=wp.vec3d),
    goal_rot: wp.array2d(dtype=wp.mat33d),
) -> None:
    """Move one arm of one world; the arrays are `[w, A, ...]` and the last three are updated."""
    world, arm = wp.tid()
    q, low, high = _vec7(), _vec7(), _vec7()
    for i in range(arms.num_joints):
        q[i] = joints[world, arm, i]
        low[i] = wp.max(arms.lower[arm, i], q[i] - arms.max_move[arm, i])
        high[i] = wp.min(arms.upper[arm, i], q[i] + arms.max_move[arm, i])
    frame, jacobian = _jacobian(arms, arm, q)
    way = wp.vec3d(target[world, arm, 0], target[world, arm, 1], target[world, arm, 2]) - _pos(frame)
    wanted = _turn_xyz(target[world, arm, 3], target[world, arm, 4], target[world, arm, 5])
    turn = _rotation_vector(wanted * wp.transpose(_rot(frame)))
    pos = _pos(frame) + _limit(way, settings.max_step_m)
    rot = _turned_by(_limit(turn, settings.max_step_rad), _rot(frame))
    best = q
    best_jacobian = jacobian
    error = _error(pos, rot, frame)
    worse = wp.bool(False)
    for iteration in range(settings.iterations):
        if iteration > 0:
            frame, jacobian = _jacobian(arms, arm, q)
            tried = _error(pos, rot, frame)
            worse = _distance(tried) > wp.max(_distance(error), _ARRIVED)
            if not worse:  # one by one: assigning them together would alias them
                best = q
                best_jacobian = jacobian
                error = tried
        q = _step(arms, settings, arm, best, best_jacobian, error, worse)
        for i in range(arms.num_joints):
            q[i] = wp.clamp(q[i], low[i], high[i])
    for i in range(arms.num_joints):
        joints[world, arm, i] = q[i]
    goal_pos[world, arm] = pos
    goal_rot[world, arm] = rot


_HUGE = 1e300  # stands for "no limit"


class WarpIk:
    """The fused solver on the device of `chain`.

    Raises:
        SimulationError: The arms have more than seven joints, or `chain` is not in float64.
    """

    def __init__(self, chain: TorchChain, settings: IkSettings) -> None:
        if chain.num_joints > MAX_JOINTS or chain.home.dtype != torch.float64:
            raise SimulationError(
                expected=f"a float64 chain of at most {MAX_JOINTS} joints",
                got=f"{chain.num_joints} joints in {chain.home.dtype}",
                fix="Use TorchIk.",
            )
        init_warp()
        self._device = chain.home.device
        self._constants = (_arms(chain, settings.period_s), _settings(settings))

    def move(self, state: IkState, target: Tensor) -> None:
        """Update `state` in place, towards `[w, A, 6]` poses (m, rad; x, y, z, roll, pitch, yaw)."""
        arrays = (
            wp.from_torch(target),
            wp.from_torch(state.joints),
            wp.from_torch(state.goal_pos, dtype=wp.vec3d),
            wp.from_torch(state.goal_rot, dtype=wp.mat33d),
        )
        stream = None
        if self._device.type == "cuda":
            stream = wp.stream_from_torch(torch.cuda.current_stream(self._device))
        wp.launch(
            ik_move, dim=state.joints.shape[:2], inputs=[*self._constants, *arrays],
            device=wp.device_from_torch(self._device), stream=stream,
        )  # fmt: skip


def _arms(chain: TorchChain, period_s: float) -> Any:
    """Return the kernel's view of the arms' constants."""
    arms = Arms()
    arms.num_joints = wp.int32(chain.num_joints)
    for name in ("base", "links", "tool"):
        setattr(arms, name, wp.from_torch(getattr(chain, name), dtype=wp.mat44d))
    for name in ("lower", "upper", "home"):
        setattr(arms, name, wp.from_torch(getattr(chain, name)))
    arms.max_move = wp.from_torch((chain.max_velocity * period_s).clamp(max=_HUGE))
    return arms


def _settings(settings: IkSettings) -> Any:
    out = Settings()
    for field in fields(settings):
        if field.name != "period_s":
            setattr(out, field.name, min(getattr(settings, field.name), _HUGE))
    return out
