"""The measured state of all worlds, and what tasks derive from it: named quantities and progress."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lary_policy.actions import euler_xyz_to_matrix, matrix_to_rot6d

_REST_M = 0.005  # what is dropped on the table sinks or tilts less


@dataclass(frozen=True)
class WorldState:
    """Measured state of all w worlds after a control step; what success conditions and experts read.

    Arms appear as poses x, y, z (metres, world frame), roll, pitch, yaw (radians), opening in [0, 1].
    """

    arms: Tensor  # `[w, A, 7]` measured poses of the tool centre points, left before right
    goals: Tensor  # `[w, G, 3]` centres of the goals, metres (G is 1, all zeros, in tasks without one)
    goal_yaw: Tensor  # `[w]` radians, of the first goal
    object_pos: Tensor  # `[w, 3]` centre of the object (zeros in tasks without one)
    object_rot: Tensor  # `[w, 3, 3]` its rotation matrix
    object_speed: Tensor  # `[w]` m/s
    object_peak: Tensor  # `[w]` highest z of the object's centre since the reset, metres

    @property
    def tcp_pose(self) -> Tensor:
        """Pose `[w, 7]` of the first arm."""
        return self.arms[:, 0]

    @property
    def goal_pos(self) -> Tensor:
        """Centre `[w, 3]` of the first goal."""
        return self.goals[:, 0]

    @property
    def object_yaw(self) -> Tensor:
        """Yaw `[w]` of the object, radians."""
        return self.object_rot[:, 1, 0].atan2(self.object_rot[:, 0, 0])


def of_arms(state: WorldState, *names: str, grippers: bool = True) -> dict[str, Tensor]:
    """Return where the tools of all arms are, by the arms' names, left before right.

    They are `<name>_pos` `[w, 3]` (m), `<name>_rot` `[w, 6]`, the first two columns of the rotation matrix,
    and `<name>_gripper` `[w, 1]`, the opening from 0 to 1.
    """
    out: dict[str, Tensor] = {}
    for name, arm in zip(names, state.arms.unbind(1), strict=True):
        out[f"{name}_pos"] = arm[:, :3]
        out[f"{name}_rot"] = matrix_to_rot6d(euler_xyz_to_matrix(arm[:, 3:6]))
        if grippers:
            out[f"{name}_gripper"] = arm[:, 6:]
    return out


def of_object(state: WorldState) -> dict[str, Tensor]:
    """Return `object_pos` `[w, 3]` (m) and `object_rot` `[w, 6]`, two columns of the rotation matrix."""
    return {"object_pos": state.object_pos, "object_rot": matrix_to_rot6d(state.object_rot)}


def of_goals(state: WorldState, *, heading: bool = False) -> dict[str, Tensor]:
    """Return `goal_pos` and, where there is one, `goal_2_pos` `[w, 3]` (m).

    `heading` adds `goal_heading` `[w, 2]`, cosine and sine of the first goal's yaw.
    """
    names = ("goal_pos", "goal_2_pos")
    out = dict(zip(names, state.goals.unbind(1), strict=False))
    if heading:
        out["goal_heading"] = torch.stack([state.goal_yaw.cos(), state.goal_yaw.sin()], -1)
    return out


def apart(first: Tensor, second: Tensor) -> Tensor:
    """Return the distance `[...]` between points `[..., 3]` or, of their first two numbers, `[..., 2]`."""
    return (first - second).norm(dim=-1)


def over_goal(state: WorldState, within_m: float) -> Tensor:
    """Return bool `[w]`: the object's centre is this near to the first goal's, horizontally."""
    return apart(state.object_pos[:, :2], state.goal_pos[:, :2]) < within_m


def rests(state: WorldState, half_height_m: float) -> Tensor:
    """Return bool `[w]`: the object's centre is as high as on the table."""
    return (state.object_pos[:, 2] - half_height_m).abs() < _REST_M


def furthest(milestones: Iterable[Tensor]) -> Tensor:
    """Return int64 `[w]`, the number of the last of bool `[w]` that is true, from 1; 0 where none is."""
    held = torch.stack(list(milestones), -1)
    numbers = torch.arange(1, held.shape[-1] + 1, device=held.device)
    return (held * numbers).amax(-1)
