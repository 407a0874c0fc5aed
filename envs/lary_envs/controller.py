"""End-effector targets to joint commands: damped least squares on the commanded joints.

The controller has its own kinematics and never reads the simulator, so it behaves the same on every physics
engine and on a real arm. Damping 0.03 and two iterations from the last command follow
0.4 m/s within 1 mm; the null-space pull keeps the seventh degree of freedom near the home posture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lary_envs.kinematics import FINGER_OPEN_M, ArmChain
from lary_policy.errors import ShapeError
from lary_policy.rotation import (
    axis_angle_to_matrix,
    euler_xyz_to_matrix,
    matrix_to_axis_angle,
    matrix_to_euler_xyz,
)

# Box in which every task happens (metres, base frame), and how far outside a target may lie.
WORKSPACE_BOUNDS_M = ((0.20, -0.40, 0.0), (0.80, 0.40, 0.55))
WORKSPACE_MARGIN_M = 0.25
_DAMPING = 0.03
_ITERATIONS = 2
_MAX_JOINT_STEP_RAD = 0.3
_NULL_GAIN = 0.01


def limit_length(vector: Tensor, longest: float) -> Tensor:
    """Shorten vectors `[..., 3]` to at most `longest`, keeping their direction."""
    length = vector.norm(dim=-1, keepdim=True)
    return vector * (longest / length.clamp(min=1e-12)).clamp(max=1.0)


class EndEffectorController:
    """Batched inverse kinematics for w arms; poses are `[x, y, z, roll, pitch, yaw, gripper]`.

    One command moves the commanded pose at most `max_step_m` metres and `max_step_rad` radians towards its
    target (a speed limit, part of the controller's contract).
    """

    def __init__(
        self,
        num_worlds: int,
        *,
        max_step_m: float = 0.03,
        max_step_rad: float = 0.2,
        device: str = "cpu",
        embodiment: str = "arm7",
    ) -> None:
        self.num_worlds = num_worlds
        self.workspace_bounds = WORKSPACE_BOUNDS_M
        self._max_step_m, self._max_step_rad = max_step_m, max_step_rad
        self._chain = ArmChain(dtype=torch.float64, device=device)
        self._joints = self._chain.home.expand(num_worlds, 7).clone()
        self._gripper = torch.ones(num_worlds, dtype=torch.float64, device=device)
        self._eye6 = torch.eye(6, dtype=torch.float64, device=device)
        low, high = torch.tensor(WORKSPACE_BOUNDS_M, dtype=torch.float64, device=device)
        self._low, self._high = low - WORKSPACE_MARGIN_M, high + WORKSPACE_MARGIN_M

    def reset(self, joint_pos: Tensor) -> None:
        """Start from joint angles `[w, 7]` with the gripper open.

        Raises:
            ShapeError: Wrong shape or non-finite values.
        """
        self._check_shape(joint_pos, "joint angles")
        if not torch.isfinite(joint_pos).all():
            raise ShapeError(
                expected="finite joint angles", got=f"{joint_pos.tolist()}", fix="Pass SimEnv.joints()."
            )
        self._joints = joint_pos.to(self._joints).clone()
        self._gripper.fill_(1.0)

    def check(self, target: Tensor) -> list[str | None]:
        """Say for each of `[w, 7]` targets why it must not be executed.

        Returns:
            None, `non_finite_action` or `out_of_range_action` (position further than `WORKSPACE_MARGIN_M`
            outside the workspace) for each world.
        """
        self._check_shape(target, "targets")
        finite = torch.isfinite(target).all(-1)
        pos = target[:, :3].to(self._low)
        inside = ((pos >= self._low) & (pos <= self._high)).all(-1)
        return [
            None if ok else ("out_of_range_action" if real else "non_finite_action")
            for ok, real in zip((finite & inside).tolist(), finite.tolist(), strict=True)
        ]

    def command(self, target: Tensor) -> Tensor:
        """Turn absolute targets `[w, 7]` into joint position commands `[w, 8]` (7 joints, finger in metres).

        Raises:
            ShapeError: Wrong shape or non-finite values; use `check` before.
        """
        self._check_shape(target, "targets")
        if not torch.isfinite(target).all():
            raise ShapeError(
                expected="finite targets", got="non-finite values", fix="Call check() and stop those worlds."
            )
        goal_pos, goal_rot = self._limited_goal(target.to(self._joints))
        for _ in range(_ITERATIONS):
            self._joints = self._iterate(goal_pos, goal_rot)
        self._gripper = target[:, 6].to(self._gripper).clamp(0.0, 1.0)
        return torch.cat([self._joints, self._gripper[:, None] * FINGER_OPEN_M], -1).float()

    def pose(self) -> Tensor:
        """Return the commanded pose `[w, 7]`, float32: forward kinematics of the commanded joints."""
        pos, rot = self._chain.forward(self._joints)
        return torch.cat([pos, matrix_to_euler_xyz(rot), self._gripper[:, None]], -1).float()

    def _limited_goal(self, target: Tensor) -> tuple[Tensor, Tensor]:
        pos, rot = self._chain.forward(self._joints)
        goal_pos = pos + limit_length(target[:, :3] - pos, self._max_step_m)
        turn = matrix_to_axis_angle(euler_xyz_to_matrix(target[:, 3:6]) @ rot.transpose(1, 2))
        return goal_pos, axis_angle_to_matrix(limit_length(turn, self._max_step_rad)) @ rot

    def _iterate(self, goal_pos: Tensor, goal_rot: Tensor) -> Tensor:
        """One damped least-squares step of the commanded joints, within the joint limits."""
        pos, rot, jac = self._chain.jacobian(self._joints)
        turn = matrix_to_axis_angle(goal_rot @ rot.transpose(1, 2))
        error = torch.cat([goal_pos - pos, turn], -1)[..., None]
        pull = _NULL_GAIN * (self._chain.home - self._joints)[..., None]
        gram = jac @ jac.transpose(1, 2) + _DAMPING**2 * self._eye6
        step = jac.transpose(1, 2) @ torch.linalg.solve(gram, error - jac @ pull) + pull
        step = step[..., 0].clamp(-_MAX_JOINT_STEP_RAD, _MAX_JOINT_STEP_RAD)
        return torch.clamp(self._joints + step, self._chain.lower, self._chain.upper)

    def _check_shape(self, value: Tensor, what: str) -> None:
        if tuple(value.shape) != (self.num_worlds, 7):
            raise ShapeError(
                expected=f"{what} of shape [{self.num_worlds}, 7]",
                got=f"{tuple(value.shape)}",
                fix="Pass one row a world: x, y, z, roll, pitch, yaw, gripper (or seven joints).",
            )
