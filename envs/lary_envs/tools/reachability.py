"""Which tool poses an arm can reach, and how far its joints then are from their limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lary_envs.kinematics import IkSettings, IkState, KernelName, TorchChain, make_ik
from lary_envs.robots import Robot
from lary_envs.scene import Vec3
from lary_policy.actions import euler_xyz_to_matrix, geodesic_angle_rad, matrix_to_euler_xyz
from lary_policy.errors import look_up

TOLERANCE_M, TOLERANCE_RAD = 1e-3, 0.01
_ITERATIONS = 80


@dataclass(frozen=True, eq=False)
class Reachability:
    """The best solution found for each of p positions and r rotations."""

    joints: Tensor  # `[p, r, n]` rad
    error_m: Tensor  # `[p, r]` distance from the wanted position
    error_rad: Tensor  # `[p, r]` angle from the wanted rotation
    margin_rad: Tensor  # `[p, r]` distance of the joint that is nearest to one of its limits

    def mask(self, margin_rad: float = 0.0) -> Tensor:
        """Return bool `[p, r]`: reached, every joint at least `margin_rad` inside its limits."""
        arrived = (self.error_m < TOLERANCE_M) & (self.error_rad < TOLERANCE_RAD)
        return arrived & (self.margin_rad >= margin_rad)

    def fraction(self, margin_rad: float = 0.0) -> float:
        """Return the share of the p x r poses that are reached with the margin."""
        return float(self.mask(margin_rad).double().mean())


def reachability(
    robot: Robot, side: str, points_m: Tensor, rotations: Tensor, *, starts: int = 8, seed: int = 0,
    kernel: KernelName = "auto",
) -> Reachability:  # fmt: skip
    """Solve for every pose from home and from random postures, and keep the solution with the largest margin.

    Args:
        robot: The robot.
        side: Which arm: `single`, `left` or `right`.
        points_m: Positions `[p, 3]` of the tool centre point (world frame).
        rotations: Rotations `[r, 3, 3]` of the tool.
        starts: Postures to start from; the first is home, so 1 stays on home's branch.
        seed: Of the random postures.
        kernel: See `lary_envs.kinematics.make_ik`.

    Raises:
        UnknownNameError: The robot has no such arm, or there is no such kernel.
    """
    arms = {arm.side: arm for arm in robot.arms}
    arm = look_up(f"arm of {robot.name}", side, arms)
    chain, shape = TorchChain([arm.chain]), (len(points_m), len(rotations))
    pos = points_m.double()[:, None].expand(*shape, 3).reshape(-1, 1, 3)
    rot = rotations.double()[None].expand(*shape, 3, 3).reshape(-1, 1, 3, 3)
    state = IkState.at_home(chain, starts * len(pos))
    state.joints.copy_(_postures(chain, starts, seed).repeat_interleave(len(pos), 0))
    pos, rot = pos.repeat(starts, 1, 1), rot.repeat(starts, 1, 1, 1)
    settings = IkSettings.unlimited(iterations=_ITERATIONS)
    make_ik(chain, settings, kernel=kernel).move(state, torch.cat([pos, matrix_to_euler_xyz(rot)], -1))
    return _best(_judge(chain, state.joints, pos, rot), (starts, *shape))


def downward(yaws_rad: Sequence[float]) -> Tensor:
    """Return rotations `[r, 3, 3]` of a tool in its natural orientation, turned about the vertical."""
    turn = torch.zeros(len(yaws_rad), 3, dtype=torch.float64)
    turn[:, 2] = torch.tensor(yaws_rad, dtype=torch.float64)
    return euler_xyz_to_matrix(turn)


def grid(low_m: Vec3, high_m: Vec3, counts: tuple[int, int, int]) -> Tensor:
    """Return the points `[p, 3]` of a regular grid in a box, corners included."""
    axes = [
        torch.linspace(a, b, n, dtype=torch.float64) for a, b, n in zip(low_m, high_m, counts, strict=True)
    ]
    return torch.cartesian_prod(*axes)


def joint_margin_rad(chain: TorchChain, joints: Tensor) -> Tensor:
    """Return how far the nearest limit of any joint of `[..., A, n]` is, `[..., A]`."""
    return torch.minimum(joints - chain.lower, chain.upper - joints).amin(-1)


def _postures(chain: TorchChain, starts: int, seed: int) -> Tensor:
    """Return `[starts, 1, n]`: home, then random postures in the middle four fifths of the limits."""
    part = torch.from_numpy(np.random.default_rng(seed).uniform(0.1, 0.9, (starts, *chain.home.shape)))
    postures = chain.lower + part * (chain.upper - chain.lower)
    postures[0] = chain.home
    return postures


def _judge(chain: TorchChain, joints: Tensor, pos: Tensor, rot: Tensor) -> Reachability:
    """Compare postures `[m, 1, n]` with what they should reach."""
    reached_pos, reached_rot = chain.forward(joints)
    error_m, error_rad = (reached_pos - pos).norm(dim=-1), geodesic_angle_rad(reached_rot, rot)
    return Reachability(joints, error_m, error_rad, joint_margin_rad(chain, joints))


def _best(found: Reachability, shape: tuple[int, int, int]) -> Reachability:
    """Keep the best of the first dimension of `[starts, p, r]`: largest margin, or else smallest error."""
    score = torch.where(found.mask(), found.margin_rad, -found.error_m - found.error_rad).view(shape)
    best = score.argmax(0, keepdim=True)
    picked = (x.view(shape).gather(0, best)[0] for x in (found.error_m, found.error_rad, found.margin_rad))
    joints = found.joints.view(*shape, -1)
    which = best[..., None].expand(*best.shape, joints.shape[-1])
    return Reachability(joints.gather(0, which)[0], *picked)
