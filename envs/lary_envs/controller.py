"""End-effector targets to joint commands, for one or two arms.

The controller has its own kinematics and never reads the simulator, so it behaves the same on every physics
engine and on a real arm. It solves for the commanded joints from the last command (`lary_envs.kinematics`);
a pull in the null space keeps a seventh degree of freedom near the home posture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lary_envs.kinematics import IkSettings, IkState, KernelName, Layout, TorchChain, make_ik
from lary_envs.robots import robot_of
from lary_policy.actions import euler_xyz_to_matrix, load_embodiment, matrix_to_euler_xyz
from lary_policy.errors import ShapeError, require_one
from lary_policy.types import FAILURES, NON_FINITE, OUT_OF_RANGE

WORKSPACE_MARGIN_M = 0.25  # how far outside the workspace of its arm a target may lie
_NULL_GAIN = 0.01  # of arms with more than six joints; six joints have no null space
# An arm that changes no joint faster than 0.1 rad/s has come to rest; further off than its tracking error
# explains, it has not arrived.
_REST_RAD, _ARRIVED_M, _ARRIVED_RAD = 0.005, 0.01, 0.1


class EndEffectorController:
    """Batched inverse kinematics for the arms of w worlds; targets are in the embodiment's action layout.

    One command moves the commanded poses at most `max_step_m` metres and `max_step_rad` radians towards their
    targets (a speed limit, part of the controller's contract) and no joint faster than its published speed.

    Args:
        embodiment: Name of the action layout; its robot has A arms of n joints.
        max_step_m: Longest move of a tool centre point in one command.
        max_step_rad: Largest turn in one command.
        device: Where targets come from and commands go to.
        kernel: `warp`, `torch`, or `auto`, see `lary_envs.kinematics.make_ik`.

    Attributes:
        layout: Converts between actions and arm poses.
        workspace_bounds: Low and high corner (m) of every arm's workspace.

    Raises:
        UnknownNameError: Unknown embodiment or kernel.
        SimulationError: `num_worlds` below 1.
    """

    def __init__(
        self, num_worlds: int, *, embodiment: str = "arm7", max_step_m: float = 0.03,
        max_step_rad: float = 0.2, device: str | torch.device = "cpu", kernel: KernelName = "auto",
    ) -> None:  # fmt: skip
        require_one(num_worlds=num_worlds)
        robot, layout = robot_of(embodiment), load_embodiment(embodiment)
        self.num_worlds, self.layout = num_worlds, Layout(layout, robot.sides)
        self.max_step_m = max_step_m
        self.workspace_bounds = tuple(arm.workspace_m for arm in robot.arms)
        self._chain = chain = TorchChain([arm.chain for arm in robot.arms], device=device)
        self._solver = make_ik(
            chain,
            IkSettings(
                max_step_m, max_step_rad, 1 / layout.control_hz, null_gain=_NULL_GAIN * (chain.num_joints > 6)
            ),
            kernel=kernel,
        )
        self._state = IkState.at_home(chain, num_worlds)
        self._before = self._state.joints.clone()
        pos = self._state.goal_pos
        self._target = _poses(pos, self._state.goal_rot, torch.ones_like(pos[..., :1]))
        low, high = chain.home.new_tensor(self.workspace_bounds).unbind(1)
        self._low, self._high = low - WORKSPACE_MARGIN_M, high + WORKSPACE_MARGIN_M
        travel = [arm.gripper.open_m if arm.gripper else 0.0 for arm in robot.arms]
        self._travel = chain.home.new_tensor(travel)[:, None]
        # ctrl is made of joints and finger of each arm; arms without a gripper leave their finger out.
        kept = [True] * chain.num_joints
        self._columns = torch.tensor([k for t in travel for k in (*kept, t > 0)], device=device).nonzero()[
            :, 0
        ]

    def reset(self, joint_pos: Tensor, worlds: Tensor | None = None) -> None:
        """Start the given worlds (long indices, all by default) from `[w, A * n]` (`SimEnv.joints()`, rad).

        Grippers are open.

        Raises:
            ShapeError: Wrong shape or non-finite values.
        """
        self._check_shape(joint_pos, self._chain.home.numel(), "joint angles")
        if not torch.isfinite(joint_pos).all():
            raise ShapeError(
                expected="finite joint angles", got="non-finite values", fix="Pass SimEnv.joints()."
            )
        which = slice(None) if worlds is None else worlds
        state = self._state
        state.joints[which] = joint_pos.to(state.joints).unflatten(1, self._chain.home.shape)[which]
        pos, rot = self._chain.forward(state.joints[which])
        state.goal_pos[which], state.goal_rot[which] = pos, rot
        self._before[which] = state.joints[which]
        self._target[which] = _poses(pos, rot, torch.ones_like(pos[..., :1]))

    def check(self, target: Tensor) -> list[str | None]:
        """Say for each of `[w, a]` absolute targets why it must not be executed.

        Returns:
            None, `non_finite_action` or `out_of_range_action` (a position further than `WORKSPACE_MARGIN_M`
            outside its arm's workspace) for each world.
        """
        return [FAILURES[code] for code in self.check_codes(target).tolist()]

    def check_codes(self, target: Tensor) -> Tensor:
        """Return uint8 `[w]`, indices into `FAILURES`, without waiting for the device; see `check`."""
        self._check_shape(target, self.layout.action_dim, "targets")
        finite = torch.isfinite(target).all(-1)
        pos = self.layout.to_arms(target.to(self._low))[..., :3]
        inside = ((pos >= self._low) & (pos <= self._high)).all(-1).all(-1)
        return torch.where(finite, OUT_OF_RANGE * (~inside).to(torch.uint8), NON_FINITE).to(torch.uint8)

    def command(self, target: Tensor, *, relative: bool = False, validate: bool = True) -> Tensor:
        """Turn targets `[w, a]` into commands `[w, nu]`, float32: joints (rad) and finger (m) of each arm.

        Args:
            target: Poses of the tool centre points in the action layout.
            relative: The poses are differences (see `Embodiment.to_relative`) from the last goal, that is the
                last target after the speed limit; openings are absolute all the same.
            validate: Refuse non-finite targets, which waits for the device. False lets worlds with such a
                target go on with their last one.

        Raises:
            ShapeError: Wrong shape, or non-finite values with `validate`; use `check` before.
        """
        self._check_shape(target, self.layout.action_dim, "targets")
        finite = torch.isfinite(target).all(-1)
        if validate and not finite.all():
            raise ShapeError(
                expected="finite targets", got="non-finite values", fix="Call check() and stop those worlds."
            )
        arms = self.layout.to_arms(target.to(self._target))
        if relative:
            arms = self._from_goal(arms)
        self._target.copy_(torch.where(finite[:, None, None], arms, self._target))
        self._before.copy_(self._state.joints)
        self._solver.move(self._state, self._target)
        fingers = self._target[..., 6:].clamp(0.0, 1.0) * self._travel
        return torch.cat([self._state.joints, fingers], -1).flatten(1)[:, self._columns].float()

    def pose(self) -> Tensor:
        """Return the commanded pose `[w, a]`, float32: forward kinematics of the commanded joints."""
        return self.layout.to_action(self._commanded()).float()

    def joints(self) -> Tensor:
        """Return a copy of the commanded joint angles `[w, A, n]`, rad, float64."""
        return self._state.joints.clone()

    def out_of_reach(self) -> Tensor:
        """Return bool `[w]`: an arm has come to rest without arriving at its target.

        Such a target lies inside the workspace, but joint limits or the length of the arm are in the way; the
        controller goes as near as it can.
        """
        pos, rot = self._chain.forward(self._state.joints)
        turn = euler_xyz_to_matrix(self._target[..., 3:6]).transpose(-1, -2) @ rot
        angle = ((turn.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1.0, 1.0).acos()
        far = ((self._target[..., :3] - pos).norm(dim=-1) > _ARRIVED_M) | (angle > _ARRIVED_RAD)
        rests = (self._state.joints - self._before).abs().amax(-1) < _REST_RAD
        return (far & rests).any(-1)

    def _commanded(self) -> Tensor:
        """Return the commanded poses `[w, A, 7]`."""
        pos, rot = self._chain.forward(self._state.joints)
        return _poses(pos, rot, self._target[..., 6:].clamp(0.0, 1.0))

    def _from_goal(self, change: Tensor) -> Tensor:
        """Return the poses `[w, A, 7]` that differ by `change` from the last goals."""
        rot = self._state.goal_rot @ euler_xyz_to_matrix(change[..., 3:6])
        return _poses(self._state.goal_pos + change[..., :3], rot, change[..., 6:])

    def _check_shape(self, value: Tensor, size: int, what: str) -> None:
        if tuple(value.shape) != (self.num_worlds, size):
            raise ShapeError(
                expected=f"{what} of shape [{self.num_worlds}, {size}]",
                got=f"{tuple(value.shape)}",
                fix="Pass one row a world: actions of the embodiment, or the joints of all arms.",
            )


def _poses(pos: Tensor, rot: Tensor, opening: Tensor) -> Tensor:
    return torch.cat([pos, matrix_to_euler_xyz(rot), opening], -1)
