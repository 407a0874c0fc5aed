"""Push: slide a cube over the table onto a disc."""

from __future__ import annotations

import math
from collections.abc import Mapping

import mujoco
import numpy as np
import torch
from torch import Tensor

from lary_envs.scene import add_cube, add_goal_disc
from lary_envs.tasks.phases import Phase, at_height, pose
from lary_envs.tasks.spec import Placement, TaskSpec, register_task
from lary_envs.tasks.state import WorldState, apart, of_arms, of_goals, of_object, over_goal

_HALF_M, _MASS_KG = 0.025, 0.1
_LOW_M, _HIGH_M = (0.38, -0.12), (0.50, 0.12)
_AWAY_M = (0.14, 0.20)  # distance from cube to disc
_AHEAD_RAD = math.radians(60)  # the disc lies within this angle of straight ahead
_TURN_RAD = math.radians(20)
_WITHIN_M, _SLOW_M_S = 0.04, 0.05
_UNDER_WAY_M = 0.10  # the disc is 14 cm or more away at first
_HOVER_M, _PUSH_Z_M = 0.11, 0.025
# Fingers 3.6 cm apart: two points of contact turn the cube's face towards the disc and keep it there.
_OPENING = 0.45
_BEHIND_M = 0.065  # where the gripper comes down, behind the cube's centre
_CONTACT_M = _HALF_M + 0.010  # from the cube's centre to the tool centre point while they touch
_LEAD_M = 0.03  # the target runs at most this far ahead of the contact
_STOP_M = 0.012
_PUSH_STEP_M = 0.010  # 0.2 m/s: a faster push makes the cube hop ahead

SPEC = TaskSpec(
    name="push",
    gym_id="PandaPush",
    instruction="push the red cube onto the green disc",
    success="for 0.25 s the cube's centre is within 4 cm of the disc's (horizontally) and moves slower "
    "than 5 cm/s",
    max_steps=100,
    hold_s=0.25,
)


def _way(state: WorldState) -> tuple[Tensor, Tensor]:
    """Return unit vector `[w, 3]` from cube to disc on the table and its length `[w, 1]`."""
    way = at_height(state.goal_pos - state.object_pos, 0.0)
    length = way.norm(dim=-1, keepdim=True)
    return way / length.clamp(min=1e-6), length


def _behind(state: WorldState, offset_m: Tensor | float, height_m: float) -> Tensor:
    """Return poses `offset_m` behind the cube as seen from the disc, turned to face the disc."""
    direction = _way(state)[0]
    spot = at_height(state.object_pos - direction * offset_m, height_m)
    return pose(spot, torch.atan2(direction[:, 1], direction[:, 0]), _OPENING)


def _pushing(state: WorldState) -> Tensor:
    """Return poses a little ahead of the contact: aims anew at every step."""
    lead = _way(state)[1].clamp(max=_LEAD_M)
    return _behind(state, _CONTACT_M - lead, _PUSH_Z_M)


def _arrived(state: WorldState) -> Tensor:
    return _way(state)[1][:, 0] < _STOP_M


def _up(state: WorldState) -> Tensor:
    """Return poses above the place where the gripper is: the cube is on the disc."""
    return pose(at_height(state.tcp_pose[:, :3], _HOVER_M), state.tcp_pose[:, 5], _OPENING)


def phases() -> tuple[Phase, ...]:
    """Return the expert's legs: behind the cube, down, push, up."""
    return (
        Phase("behind the cube", lambda s: _behind(s, _BEHIND_M, _HOVER_M), 0.012, free=True, track=True),
        Phase("down", lambda s: _behind(s, _BEHIND_M, _PUSH_Z_M), 0.006, track=True),
        Phase("push", _pushing, 1.0, done=_arrived, speed_m=_PUSH_STEP_M, track=True),
        Phase("up", _up, 0.0),
    )


@register_task(SPEC, phases)
class Push:
    """A 5 cm cube and a disc 14 to 20 cm further on."""

    def build(self, scene: mujoco.MjSpec) -> None:
        """Add cube and disc."""
        add_cube(scene, _HALF_M, _MASS_KG)
        add_goal_disc(scene)

    def sample(self, rng: np.random.Generator) -> Mapping[str, Placement]:
        """Draw the cube in a box of 12 x 24 cm, and the disc ahead of it."""
        cube_x, cube_y = rng.uniform(_LOW_M, _HIGH_M)
        away, angle = rng.uniform(*_AWAY_M), rng.uniform(-_AHEAD_RAD, _AHEAD_RAD)
        yaw = float(angle + rng.uniform(-_TURN_RAD, _TURN_RAD))
        goal = (float(cube_x + away * np.cos(angle)), float(cube_y + away * np.sin(angle)), 0.0)
        return {"object": Placement((float(cube_x), float(cube_y), _HALF_M), yaw), "goal": Placement(goal)}

    def holds(self, state: WorldState) -> Tensor:
        """Return bool `[w]`: on the disc and at rest now."""
        near = over_goal(state, _WITHIN_M)
        return near & (state.object_speed < _SLOW_M_S)

    def milestones(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return how far the cube is: touched, most of the way done, on the disc."""
        touched = apart(state.tcp_pose[:, :3], state.object_pos) < _BEHIND_M
        to_go = _way(state)[1][:, 0]
        return {"at the cube": touched, "under way": to_go < _UNDER_WAY_M, "on the disc": to_go < _WITHIN_M}

    def quantities(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return hand, cube and disc."""
        return {**of_arms(state, "hand"), **of_object(state), **of_goals(state)}
