"""Positions of MetaWorld's tool to its own actions: displacements and the effort of the gripper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lary_envs.kinematics import Layout
from lary_policy.actions import load_embodiment
from lary_policy.errors import ShapeError
from lary_policy.types import NON_FINITE, OUT_OF_RANGE

MAX_STEP_M = 0.01  # along each axis: what an action of 1 moves the tool, and MetaWorld cuts larger ones
MARGIN_M = 0.25  # how far outside the workspace a target may lie, as for our own arms
_ARRIVED_M = 0.01


class SawyerController:
    """Turns targets `[w, 4]` of `sawyer4` (x, y, z in metres, opening) into MetaWorld's actions.

    As in MetaWorld, the tool's commanded position moves at most `MAX_STEP_M` a step along each axis and stays
    in the workspace; so whatever MetaWorld's own actions do, targets can say.

    Args:
        num_worlds: Worlds w.
        low: Low corner (m) of the workspace.
        high: High corner.

    Attributes:
        layout: Converts between actions and arm poses.
        workspace_bounds: Low and high corner of the workspace of the one arm.
        max_step_m: Longest move of the tool along each axis in one step.
    """

    max_step_m = MAX_STEP_M

    def __init__(self, num_worlds: int, low: Sequence[float], high: Sequence[float]) -> None:
        self.num_worlds, self.layout = num_worlds, Layout(load_embodiment("sawyer4"), ("single",))
        self.workspace_bounds = ((tuple(low), tuple(high)),)
        self._low, self._high = (torch.tensor(corner, dtype=torch.float64) for corner in (low, high))
        self._pose = torch.zeros(num_worlds, 4, dtype=torch.float64)
        self._target, self._rests = self._pose.clone(), torch.zeros(num_worlds, dtype=torch.bool)

    def reset(self, joints: Tensor, worlds: Tensor | None = None) -> None:
        """Start from `MetaWorldEnv.joints()` `[w, 4]`, in all worlds or those with these indices.

        Raises:
            ShapeError: Wrong shape or non-finite values.
        """
        which = slice(None) if worlds is None else worlds
        start = self._checked(joints)[which]
        if not torch.isfinite(start).all():
            raise ShapeError(
                expected="finite positions", got="non-finite values", fix="Pass MetaWorldEnv.joints()."
            )
        self._pose[which] = start
        self._target[which], self._rests[which] = self._pose[which], False

    def pose(self) -> Tensor:
        """Return the commanded position and opening `[w, 4]`, float32."""
        return self._pose.float()

    def command(self, target: Tensor, *, relative: bool = False, validate: bool = True) -> Tensor:
        """Return MetaWorld's actions `[w, 4]`, float64: displacements (1 is 1 cm) and the gripper's effort.

        Args:
            target: Positions and openings.
            relative: Positions are differences from the commanded ones.
            validate: Refuse non-finite targets; otherwise such worlds go on with their last one.

        Raises:
            ShapeError: Wrong shape, or non-finite values with `validate`.
        """
        wanted = self._checked(target)
        finite = torch.isfinite(wanted).all(-1, keepdim=True)
        if validate and not finite.all():
            raise ShapeError(
                expected="finite targets", got="non-finite values", fix="Call check() and stop those worlds."
            )
        if relative:
            wanted = torch.cat([self._pose[:, :3] + wanted[:, :3], wanted[:, 3:]], -1)
        self._target = torch.where(finite, wanted, self._target)
        before = self._pose[:, :3]
        move = ((self._target[:, :3] - before) / MAX_STEP_M).clamp(-1.0, 1.0)
        after = torch.minimum(torch.maximum(before + move * MAX_STEP_M, self._low), self._high)
        opening = self._target[:, 3:].clamp(0.0, 1.0)
        self._rests = (after - before).abs().amax(-1) < _ARRIVED_M / 20
        self._pose = torch.cat([after, opening], -1)
        return torch.cat([move, 1.0 - 2.0 * opening], -1)

    def check_codes(self, target: Tensor) -> Tensor:
        """Return uint8 `[w]`, indices into `FAILURES`: not finite, or too far outside the workspace."""
        wanted = self._checked(target)
        place = wanted[:, :3]
        inside = ((place >= self._low - MARGIN_M) & (place <= self._high + MARGIN_M)).all(-1)
        codes = OUT_OF_RANGE * (~inside).to(torch.uint8)
        return torch.where(torch.isfinite(wanted).all(-1), codes, NON_FINITE).to(torch.uint8)

    def out_of_reach(self) -> Tensor:
        """Return bool `[w]`: the tool was sent to a place outside the workspace and rests at its border."""
        far = (self._target[:, :3] - self._pose[:, :3]).norm(dim=-1) > _ARRIVED_M
        return far & self._rests

    def _checked(self, value: Tensor) -> Tensor:
        if tuple(value.shape) != (self.num_worlds, 4):
            raise ShapeError(
                expected=f"x, y, z and opening of shape [{self.num_worlds}, 4]",
                got=f"{tuple(value.shape)}",
                fix="Pass one row a world, in the layout of sawyer4.",
            )
        return value.detach().to("cpu", torch.float64)
