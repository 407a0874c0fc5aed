"""Reach: bring the tool centre point into a floating sphere."""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np
from torch import Tensor

from lary_envs.scene import add_goal_sphere
from lary_envs.tasks.phases import Phase, pose
from lary_envs.tasks.spec import Placement, TaskSpec, register_task
from lary_envs.tasks.state import WorldState, apart, of_arms, of_goals

_RADIUS_M, _WITHIN_M = 0.025, 0.03
_LOW_M, _HIGH_M = (0.44, -0.18, 0.08), (0.64, 0.18, 0.28)  # in front of the hand, never hidden by it

SPEC = TaskSpec(
    name="reach",
    gym_id="PandaReach",
    instruction="move the gripper to the magenta sphere",
    success="the tool centre point stays within 3 cm of the sphere's centre for 0.5 s",
    max_steps=50,
    hold_s=0.5,
)


def phases() -> tuple[Phase, ...]:
    """Return the expert's only leg: straight to the sphere, and stay."""
    return (Phase("sphere", lambda s: pose(s.goal_pos, 0.0, 1.0), 0.0, free=True),)


@register_task(SPEC, phases)
class Reach:
    """A sphere in a box of 20 x 36 x 20 cm above the table."""

    def build(self, scene: mujoco.MjSpec) -> None:
        """Add the sphere."""
        add_goal_sphere(scene, _RADIUS_M)

    def sample(self, rng: np.random.Generator) -> Mapping[str, Placement]:
        """Draw the sphere's centre uniformly."""
        x, y, z = rng.uniform(_LOW_M, _HIGH_M)
        return {"goal": Placement((float(x), float(y), float(z)))}

    def holds(self, state: WorldState) -> Tensor:
        """Return bool `[w]`: within 3 cm now."""
        return (state.tcp_pose[:, :3] - state.goal_pos).norm(dim=-1) < _WITHIN_M

    def milestones(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return what was reached: within twice the distance, within it."""
        distance = apart(state.tcp_pose[:, :3], state.goal_pos)
        return {"near": distance < 2 * _WITHIN_M, "reached": distance < _WITHIN_M}

    def quantities(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return the hand and the sphere."""
        return {**of_arms(state, "hand"), **of_goals(state)}
