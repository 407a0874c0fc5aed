"""Inverse kinematics: one speed-limited, damped least-squares move of every arm in every world.

`TorchIk` is the reference in plain torch; `lary_envs.ik_warp.WarpIk` does the same arithmetic in one kernel
launch. Both work in float64 on the commanded joints and never read the simulator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from lary_envs.chain import TorchChain
from lary_policy.errors import UnknownNameError
from lary_policy.rotation import axis_angle_to_matrix, euler_xyz_to_matrix, matrix_to_axis_angle

type KernelName = Literal["auto", "warp", "torch"]
KERNELS = ("auto", "warp", "torch")


@dataclass(frozen=True)
class IkSettings:
    """How one move is computed.

    Attributes:
        max_step_m: Longest move of the tool centre point (TCP).
        max_step_rad: Largest turn of the TCP.
        period_s: Time of one move; with the joints' speed limits it bounds the change of every joint.
        iterations: Least-squares steps a move; two follow 0.4 m/s within 1 mm.
        damping: Trades accuracy near singularities for bounded joint steps.
        null_gain: Pull of redundant joints towards home, a fraction of the way for each iteration.
        max_joint_step_rad: Largest change of a joint in one iteration.
    """

    max_step_m: float = 0.03
    max_step_rad: float = 0.2
    period_s: float = 0.05
    iterations: int = 2
    damping: float = 0.03
    null_gain: float = 0.01
    max_joint_step_rad: float = 0.3

    @classmethod
    def unlimited(cls, *, iterations: int, damping: float = 0.03) -> IkSettings:
        """Return settings without speed limits: one call solves for the target itself."""
        return cls(math.inf, math.inf, math.inf, iterations=iterations, damping=damping)


@dataclass
class IkState:
    """What a solver reads and writes in place, for w worlds and A arms of n joints, float64.

    Attributes:
        joints: `[w, A, n]` commanded joint angles, rad.
        goal_pos: `[w, A, 3]` the last target after the speed limit, metres.
        goal_rot: `[w, A, 3, 3]` its rotation.
    """

    joints: Tensor
    goal_pos: Tensor
    goal_rot: Tensor

    @classmethod
    def at_home(cls, chain: TorchChain, num_worlds: int) -> IkState:
        """Return the state in which every arm is, and wants to be, at home."""
        joints = chain.home.expand(num_worlds, *chain.home.shape).clone()
        pos, rot = chain.forward(joints)
        return cls(joints, pos.contiguous(), rot.contiguous())


class IkSolver(Protocol):
    """Moves the commanded joints of all arms towards target poses."""

    def move(self, state: IkState, target: Tensor) -> None:
        """Update `state` in place, towards `[w, A, 6]` poses (m, rad; x, y, z, roll, pitch, yaw)."""


def limit_length(vector: Tensor, longest: float) -> Tensor:
    """Shorten vectors `[..., 3]` to at most `longest`, keeping their direction."""
    length = vector.norm(dim=-1, keepdim=True)
    return vector * (longest / length.clamp(min=1e-12)).clamp(max=1.0)


class TorchIk:
    """The reference: batched torch operations on any device, without host synchronisation."""

    def __init__(self, chain: TorchChain, settings: IkSettings) -> None:
        self._chain, self._settings = chain, settings
        self._damping = settings.damping**2 * torch.eye(6, dtype=chain.home.dtype, device=chain.home.device)
        self._max_move = chain.max_velocity * settings.period_s

    def move(self, state: IkState, target: Tensor) -> None:
        """Update `state` in place, towards `[w, A, 6]` poses (m, rad; x, y, z, roll, pitch, yaw)."""
        joints = state.joints
        for iteration in range(self._settings.iterations):
            pos, rot, jacobian = self._chain.jacobian(joints)
            if iteration == 0:
                self._set_goal(state, pos, rot, target)
            error = torch.cat(
                [state.goal_pos - pos, matrix_to_axis_angle(state.goal_rot @ rot.transpose(-1, -2))], -1
            )
            joints = self._iterate(joints, jacobian, error)
        moved = joints - state.joints
        scale = (self._max_move / moved.abs().clamp(min=1e-12)).amin(-1, keepdim=True).clamp(max=1.0)
        state.joints.copy_(self._within_limits(state.joints + moved * scale))

    def _set_goal(self, state: IkState, pos: Tensor, rot: Tensor, target: Tensor) -> None:
        """Put the goal on the way from the present pose to the target, no further than the speed limit."""
        way, wanted = target[..., :3] - pos, euler_xyz_to_matrix(target[..., 3:6])
        turn = limit_length(matrix_to_axis_angle(wanted @ rot.transpose(-1, -2)), self._settings.max_step_rad)
        state.goal_pos.copy_(pos + limit_length(way, self._settings.max_step_m))
        state.goal_rot.copy_(axis_angle_to_matrix(turn) @ rot)

    def _iterate(self, joints: Tensor, jacobian: Tensor, error: Tensor) -> Tensor:
        """One damped least-squares step of the joints, within their limits."""
        pull = (self._settings.null_gain * (self._chain.home - joints))[..., None]
        factor = torch.linalg.cholesky_ex(jacobian @ jacobian.transpose(-1, -2) + self._damping)[0]
        force = torch.cholesky_solve(error[..., None] - jacobian @ pull, factor)
        step = (jacobian.transpose(-1, -2) @ force + pull)[..., 0]
        longest = self._settings.max_joint_step_rad
        return self._within_limits(joints + step.clamp(-longest, longest))

    def _within_limits(self, joints: Tensor) -> Tensor:
        return torch.clamp(joints, self._chain.lower, self._chain.upper)


def make_ik(chain: TorchChain, settings: IkSettings, *, kernel: KernelName = "auto") -> IkSolver:
    """Choose a solver for the device of `chain`.

    `auto` takes Warp on CUDA (one launch instead of about a hundred) and torch on a CPU, where Warp is
    faster for each call but costs seconds to import: see `lary_envs/ik_warp.py` for figures.

    Raises:
        UnknownNameError: `kernel` is none of `auto`, `warp`, `torch`.
    """
    if kernel not in KERNELS:
        raise UnknownNameError("IK kernel", kernel, KERNELS)
    on_cuda = chain.home.device.type == "cuda"
    if kernel == "torch" or (kernel == "auto" and not on_cuda):
        return TorchIk(chain, settings)
    from lary_envs.ik_warp import WarpIk  # here, because physics on a CPU alone must not wait for Warp

    return WarpIk(chain, settings)
