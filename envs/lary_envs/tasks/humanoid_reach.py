"""Humanoid reach: bring each gripper's tool centre point into its own floating sphere."""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np
from torch import Tensor

from lary_envs.robots.humanoid import APPROACH_M, hand, hands
from lary_envs.scene import add_two_spheres, place_two_spheres
from lary_envs.tasks.phases import Phase
from lary_envs.tasks.spec import Placement, TaskSpec, register_task
from lary_envs.tasks.state import WorldState, apart, of_arms, of_goals

_RADIUS_M, _WITHIN_M = 0.025, 0.025
_LOW_M, _HIGH_M = (0.38, 0.03, 0.05), (0.51, 0.24, 0.28)  # of the left sphere; the right one's is mirrored

SPEC = TaskSpec(
    name="humanoid_reach",
    gym_id="HumanoidReach",
    instruction="move the left gripper to the magenta sphere and the right gripper to the green sphere",
    success="both tool centre points stay within 2.5 cm of their spheres' centres for 0.5 s",
    max_steps=50,
    hold_s=0.5,
    embodiment="arm16",
)


def _spheres(state: WorldState) -> Tensor:
    left, right = (hand(state.goals[:, index], 1.0, lean=1.0) for index in (0, 1))
    return hands(state, left, right)


def phases() -> tuple[Phase, ...]:
    """Return the expert's only leg: straight to the spheres, and stay."""
    return (Phase("spheres", _spheres, 0.0, speed_m=APPROACH_M, free=True),)


@register_task(SPEC, phases)
class HumanoidReach:
    """A magenta sphere on the left and a green one on the right, each in a box of 13 x 21 x 23 cm."""

    def build(self, scene: mujoco.MjSpec) -> None:
        """Add the spheres."""
        add_two_spheres(scene, _RADIUS_M)

    def sample(self, rng: np.random.Generator) -> Mapping[str, Placement]:
        """Draw both centres uniformly and independently."""
        return place_two_spheres(rng, _LOW_M, _HIGH_M)

    def holds(self, state: WorldState) -> Tensor:
        """Return bool `[w]`: both within 2.5 cm now."""
        return ((state.arms[..., :3] - state.goals).norm(dim=-1) < _WITHIN_M).all(-1)

    def milestones(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return what was reached: one sphere, both near, both."""
        distance = apart(state.arms[..., :3], state.goals)
        reached = distance < _WITHIN_M
        near = (distance < 2 * _WITHIN_M).all(-1)
        return {"one reached": reached.any(-1), "both near": near, "both reached": reached.all(-1)}

    def quantities(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return both hands and both spheres."""
        return {**of_arms(state, "left", "right"), **of_goals(state)}
