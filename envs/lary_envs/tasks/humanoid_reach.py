"""Humanoid reach: bring each gripper's tool centre point into its own floating sphere."""

from __future__ import annotations

from torch import Tensor

from lary_envs.robots.humanoid import APPROACH_M, hand, hands
from lary_envs.tasks.dual_reach import TwoSpheres
from lary_envs.tasks.phases import Phase
from lary_envs.tasks.spec import TaskSpec, register_task
from lary_envs.tasks.state import WorldState

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


def _at_spheres(state: WorldState) -> Tensor:
    left, right = (hand(state.goals[:, index], 1.0, lean=1.0) for index in (0, 1))
    return hands(state, left, right)


def phases() -> tuple[Phase, ...]:
    """Return the expert's only leg: straight to the spheres, and stay."""
    return (Phase("spheres", _at_spheres, 0.0, speed_m=APPROACH_M, free=True),)


register_task(SPEC, phases)(lambda: TwoSpheres(_RADIUS_M, _WITHIN_M, _LOW_M, _HIGH_M, grippers=True))
