"""Inverse kinematics: one speed-limited, damped least-squares move of every arm in every world.

`TorchIk` is the reference in plain torch; `WarpIk` does the same arithmetic in one kernel launch. Both are in
float64 on the commanded joints and never read the simulator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lary_envs.kinematics.chain import TorchChain
from lary_envs.kinematics.solver import IkSettings, IkState
from lary_policy.actions import axis_angle_to_matrix, euler_xyz_to_matrix, matrix_to_axis_angle

# One distance out of two errors: a turn counts as what it moves 10 cm away. Below 1 mm it may grow, because
# the pull in the null space disturbs the tool that much.
TURN_M_PER_RAD, ARRIVED_M = 0.1, 1e-3


def limit_length(vector: Tensor, longest: float) -> Tensor:
    """Shorten vectors `[..., 3]` to at most `longest`, keeping their direction."""
    length = vector.norm(dim=-1, keepdim=True)
    return vector * (longest / length.clamp(min=1e-12)).clamp(max=1.0)


@dataclass(frozen=True, eq=False)
class _Posture:
    """Joints `[w, A, n]`, their Jacobian, and error `[w, A, 6]` and distance `[w, A, 1]` to the goal."""

    joints: Tensor
    jacobian: Tensor
    error: Tensor
    distance: Tensor


class TorchIk:
    """The reference: batched torch operations on any device, without host synchronisation."""

    def __init__(self, chain: TorchChain, settings: IkSettings) -> None:
        self._chain, self._settings = chain, settings
        eye = torch.eye(6, dtype=chain.home.dtype, device=chain.home.device)
        self._damping, self._strong = eye * settings.damping**2, eye * settings.strong_damping**2
        self._max_move = chain.max_velocity * settings.period_s

    def move(self, state: IkState, target: Tensor) -> None:
        """Update `state` in place, towards `[w, A, 6]` poses (m, rad; x, y, z, roll, pitch, yaw)."""
        low = torch.maximum(self._chain.lower, state.joints - self._max_move)
        high = torch.minimum(self._chain.upper, state.joints + self._max_move)
        best = self._start(state, target)
        joints = self._step(best, torch.zeros_like(best.distance, dtype=torch.bool)).clamp(low, high)
        for _ in range(self._settings.iterations - 1):
            tried = _posture(state, joints, *self._chain.jacobian(joints))
            worse = tried.distance > best.distance.clamp(min=ARRIVED_M)
            best = _choose(worse, best, tried)
            joints = self._step(best, worse).clamp(low, high)
        state.joints.copy_(joints)

    def _start(self, state: IkState, target: Tensor) -> _Posture:
        """Put the goal on the way from the present pose to the target, no further than the speed limit."""
        pos, rot, jacobian = self._chain.jacobian(state.joints)
        way, wanted = target[..., :3] - pos, euler_xyz_to_matrix(target[..., 3:6])
        turn = limit_length(matrix_to_axis_angle(wanted @ rot.transpose(-1, -2)), self._settings.max_step_rad)
        state.goal_pos.copy_(pos + limit_length(way, self._settings.max_step_m))
        state.goal_rot.copy_(axis_angle_to_matrix(turn) @ rot)
        return _posture(state, state.joints, pos, rot, jacobian)

    def _step(self, posture: _Posture, strong: Tensor) -> Tensor:
        """Return the joints after one least-squares step, with much damping where `strong` `[w, A, 1]`."""
        settings, joints, jacobian = self._settings, posture.joints, posture.jacobian
        pull = settings.null_gain * (self._chain.home - joints)[..., None]
        damping = torch.where(strong[..., None], self._strong, self._damping)
        factor = torch.linalg.cholesky_ex(jacobian @ jacobian.transpose(-1, -2) + damping)[0]
        force = torch.cholesky_solve(posture.error[..., None] - jacobian @ pull, factor)
        step = (jacobian.transpose(-1, -2) @ force + pull)[..., 0]
        longest = settings.max_joint_step_rad
        return joints + step.clamp(-longest, longest)


def _posture(state: IkState, joints: Tensor, pos: Tensor, rot: Tensor, jacobian: Tensor) -> _Posture:
    way, turn = state.goal_pos - pos, matrix_to_axis_angle(state.goal_rot @ rot.transpose(-1, -2))
    distance = way.norm(dim=-1, keepdim=True) + TURN_M_PER_RAD * turn.norm(dim=-1, keepdim=True)
    return _Posture(joints, jacobian, torch.cat([way, turn], -1), distance)


def _choose(take: Tensor, first: _Posture, second: _Posture) -> _Posture:
    """Return `first` where `take` `[w, A, 1]`, else `second`."""
    return _Posture(
        torch.where(take, first.joints, second.joints),
        torch.where(take[..., None], first.jacobian, second.jacobian),
        torch.where(take, first.error, second.error),
        torch.where(take, first.distance, second.distance),
    )
