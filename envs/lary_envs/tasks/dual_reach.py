"""Dual reach: bring each tool centre point into its own floating sphere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np
from torch import Tensor

from lary_envs.scene import Vec3, add_two_spheres, place_two_spheres
from lary_envs.tasks.phases import Phase, both, pose
from lary_envs.tasks.spec import Placement, TaskSpec, register_task
from lary_envs.tasks.state import WorldState, apart, of_arms, of_goals

_RADIUS_M, _WITHIN_M = 0.025, 0.03
_LOW_M, _HIGH_M = (0.31, 0.06, 0.07), (0.40, 0.24, 0.24)  # of the left sphere; the right one's is mirrored

SPEC = TaskSpec(
    name="dual_reach",
    gym_id="PiperDualReach",
    instruction="move the left paddle to the magenta sphere and the right paddle to the green sphere",
    success="both paddles' centres stay within 3 cm of their spheres' centres for 0.5 s",
    max_steps=50,
    hold_s=0.5,
    embodiment="arm12",
)


def _at_spheres(state: WorldState) -> Tensor:
    return both(pose(state.goals[:, 0], 0.0, 1.0), pose(state.goals[:, 1], 0.0, 1.0))


def phases() -> tuple[Phase, ...]:
    """Return the expert's only leg: straight to the spheres, and stay."""
    return (Phase("spheres", _at_spheres, 0.0, free=True),)


@dataclass(frozen=True)
class TwoSpheres:
    """A magenta sphere on the left and a green one on the right, each to be reached by its own arm."""

    radius_m: float  # of the spheres
    within_m: float  # how near to its sphere's centre a tool counts as there
    low_m: Vec3  # low corner of the box of the left sphere's centre; the right one's is its mirror image
    high_m: Vec3  # its high corner
    grippers: bool  # whether the arms have some

    def build(self, scene: mujoco.MjSpec) -> None:
        """Add the spheres."""
        add_two_spheres(scene, self.radius_m)

    def sample(self, rng: np.random.Generator) -> Mapping[str, Placement]:
        """Draw both centres uniformly and independently."""
        return place_two_spheres(rng, self.low_m, self.high_m)

    def holds(self, state: WorldState) -> Tensor:
        """Return bool `[w]`: both are reached now."""
        return (apart(state.arms[..., :3], state.goals) < self.within_m).all(-1)

    def milestones(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return what was reached: one sphere, both within twice the distance, both."""
        distance = apart(state.arms[..., :3], state.goals)
        reached, near = distance < self.within_m, distance < 2 * self.within_m
        return {"one reached": reached.any(-1), "both near": near.all(-1), "both reached": reached.all(-1)}

    def quantities(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return both tools and both spheres."""
        return {**of_arms(state, "left", "right", grippers=self.grippers), **of_goals(state)}


register_task(SPEC, phases)(lambda: TwoSpheres(_RADIUS_M, _WITHIN_M, _LOW_M, _HIGH_M, grippers=False))
