"""What the robot of a LeRobot dataset was told and did, in the layout of an embodiment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lary_policy.data.lerobot_files import LeRobotSteps


@dataclass(frozen=True, eq=False)
class LeRobotMotion:
    """What the robot was told and did in the T steps of an episode, in the layout of the embodiment.

    Attributes:
        steps: The tables' own numbers.
        actions: Recorded actions `[T a]`.
        executed: What was commanded instead where poses were disturbed, `[T a]`.
        poses: Measured poses `[T a]`, or the actions where there are none.
        disturbed: Steps at which they were, bool `[T]`.
    """

    steps: LeRobotSteps
    actions: Tensor
    executed: Tensor
    poses: Tensor
    disturbed: Tensor

    def is_finite(self, chunk: slice) -> bool:
        """Return whether the actions of a chunk, and the pose it starts from, have no NaN or infinity."""
        numbers = (self.actions[chunk], self.executed[chunk], self.poses[chunk.start])
        return all(bool(torch.isfinite(values).all()) for values in numbers)
