"""Between the action layout of an embodiment and poses of arms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lary_policy.actions import ActionGroup, Embodiment, convert_rotation
from lary_policy.errors import EmbodimentError

_PLACES = {"position": slice(0, 3), "rotation": slice(3, 6), "gripper": slice(6, 7)}


class Layout:
    """Converts actions `[..., a]` to arm poses `[..., A, 7]` and back.

    An arm pose is x, y, z (m), roll, pitch, yaw (extrinsic xyz, rad) and the gripper's opening (1 for arms
    without one).

    Args:
        embodiment: The action layout.
        sides: The robot's arms in order: `single`, or `left` and `right`.

    Raises:
        EmbodimentError: An action group belongs to an arm that the robot does not have.
    """

    def __init__(self, embodiment: Embodiment, sides: Sequence[str]) -> None:
        self.sides = tuple(sides)
        for group in embodiment.groups:
            if group.arm not in sides:
                raise EmbodimentError(
                    expected=f"action groups of the arms {', '.join(sides)}",
                    got=f"group '{group.name}' of arm '{group.arm}'",
                    fix=f"Correct configs/embodiment/{embodiment.name}.yaml or its robot.",
                )
        self.action_dim, self.num_arms = embodiment.action_dim, len(sides)
        self._groups = [(group, self.sides.index(group.arm)) for group in embodiment.groups]

    def to_arms(self, actions: Tensor) -> Tensor:
        """Return poses `[..., A, 7]` of actions `[..., a]`, in their dtype and on their device."""
        arms = actions.new_ones(*actions.shape[:-1], self.num_arms, 7)
        for group, arm in self._groups:
            arms[..., arm, _PLACES[group.kind]] = _turned(group, _columns(actions, group), to_pose=True)
        return arms

    def to_action(self, arms: Tensor) -> Tensor:
        """Return actions `[..., a]` of poses `[..., A, 7]`; quaternions have a non-negative real part."""
        actions = arms.new_zeros(*arms.shape[:-2], self.action_dim)
        for group, arm in self._groups:
            values = _turned(group, arms[..., arm, _PLACES[group.kind]], to_pose=False)
            for column, index in enumerate(group.indices):
                actions[..., index] = values[..., column]
        return actions


def _columns(actions: Tensor, group: ActionGroup) -> Tensor:
    # One column at a time: indexing with a list would copy the index to the device at every call.
    return torch.stack([actions[..., index] for index in group.indices], -1)


def _turned(group: ActionGroup, values: Tensor, *, to_pose: bool) -> Tensor:
    """Convert a rotation group's numbers to the angles of a pose, or back; others stay as they are."""
    if group.kind != "rotation" or group.convention == "euler_xyz":
        return values
    ways = (group.convention, "euler_xyz")
    return convert_rotation(values, *(ways if to_pose else reversed(ways)))
