"""Dual push: slide a wide box onto a rectangle of its size, one paddle behind either end."""

from __future__ import annotations

import math
from collections.abc import Mapping

import mujoco
import numpy as np
import torch
from torch import Tensor

from lary_envs.robots import PADDLE_HALF_M
from lary_envs.scene import add_box, add_goal_plate
from lary_envs.tasks.phases import Phase, at_height, pair
from lary_envs.tasks.spec import Placement, TaskSpec, register_task
from lary_envs.tasks.state import WorldState, apart, of_arms, of_goals, of_object, over_goal

_HALF_M, _MASS_KG = (0.04, 0.13, 0.04), 0.4  # so wide that one paddle would turn it
_LOW_M, _HIGH_M = (0.36, -0.04), (0.40, 0.04)
_AWAY_M = (0.08, 0.12)  # the box must move by more than its tolerance, and stay within reach
_AHEAD_RAD, _TURN_RAD = math.radians(15), math.radians(12)
_WITHIN_M, _ALIGNED_RAD, _SLOW_M_S = 0.03, math.radians(10), 0.05
_UNDER_WAY_M = 0.055  # the rectangle is 8 cm or more away at first
_AT_BOX_M = 0.13  # from the box's centre to the paddles' when these come down behind it: 12 cm
_APART_M = 0.08  # from the middle of the box to each paddle
_HOVER_M, _PUSH_Z_M = 0.15, 0.05
_TOUCH_M = _HALF_M[0] + PADDLE_HALF_M[0]  # from the box's centre to the paddles' while they touch it
_CLEAR_M = 0.025  # between box and paddles where these come down
_LEAD_M = 0.025  # the target runs at most this far ahead of the contact
_LOOK_AHEAD_M = 0.10  # a smaller value steers harder against sideways error
_STOP_M = 0.006
_PUSH_STEP_M = 0.010  # 0.2 m/s: a faster push makes the box slide ahead

SPEC = TaskSpec(
    name="dual_push",
    gym_id="PiperDualPush",
    instruction="push the red box onto the green rectangle with both paddles",
    success="for 0.25 s the box's centre is within 3 cm of the rectangle's (horizontally), its heading "
    "within 10 degrees, and it moves slower than 5 cm/s",
    max_steps=100,
    hold_s=0.25,
    embodiment="arm12",
)


def _errors(state: WorldState) -> tuple[Tensor, Tensor]:
    """Return the way still to go, `[w]` forwards and `[w]` sideways as seen from the goal's heading."""
    way, cos, sin = state.goal_pos - state.object_pos, state.goal_yaw.cos(), state.goal_yaw.sin()
    return cos * way[:, 0] + sin * way[:, 1], cos * way[:, 1] - sin * way[:, 0]


def _behind(state: WorldState, yaw_rad: Tensor, offset_m: Tensor | float, height_m: float) -> Tensor:
    """Return poses `offset_m` behind the box's centre, for paddles that face `yaw_rad`."""
    offset = torch.as_tensor(offset_m, dtype=yaw_rad.dtype, device=yaw_rad.device)
    back = torch.stack([yaw_rad.cos(), yaw_rad.sin()], -1) * offset[..., None]
    centre = torch.cat([state.object_pos[:, :2] - back, state.object_pos[:, 2:]], -1)
    return pair(at_height(centre, height_m), yaw_rad, _APART_M)


def _pushing(state: WorldState) -> Tensor:
    """Return poses a little ahead of the contact, turned to bring the box back onto its line."""
    forwards, sideways = _errors(state)
    yaw = state.goal_yaw + (sideways / _LOOK_AHEAD_M).atan()
    return _behind(state, yaw, _TOUCH_M - forwards.clamp(max=_LEAD_M), _PUSH_Z_M)


def _arrived(state: WorldState) -> Tensor:
    return _errors(state)[0] < _STOP_M


def _aligned(state: WorldState) -> Tensor:
    return (state.object_yaw - state.goal_yaw).cos() > math.cos(_ALIGNED_RAD)


def phases() -> tuple[Phase, ...]:
    """Return the expert's legs: behind the box, down, push, back, up."""

    def clear(state: WorldState, height_m: float) -> Tensor:
        return _behind(state, state.object_yaw, _TOUCH_M + _CLEAR_M, height_m)

    return (
        Phase("behind the box", lambda s: clear(s, _HOVER_M), 0.012, free=True, track=True),
        Phase("down", lambda s: clear(s, _PUSH_Z_M), 0.006, track=True),
        Phase("push", _pushing, 1.0, done=_arrived, speed_m=_PUSH_STEP_M, track=True),
        Phase("back", lambda s: clear(s, _PUSH_Z_M), 0.012, track=True),
        Phase("up", lambda s: clear(s, _HOVER_M), 0.0),
    )


@register_task(SPEC, phases)
class DualPush:
    """A box of 8 x 26 x 8 cm and a rectangle 8 to 12 cm further on, turned by up to 15 degrees."""

    def build(self, scene: mujoco.MjSpec) -> None:
        """Add box and rectangle."""
        add_box(scene, _HALF_M, _MASS_KG)
        add_goal_plate(scene, _HALF_M[:2])

    def sample(self, rng: np.random.Generator) -> Mapping[str, Placement]:
        """Draw the box in an area of 4 x 8 cm, and the rectangle ahead of it."""
        x, y = rng.uniform(_LOW_M, _HIGH_M)
        away, angle = rng.uniform(*_AWAY_M), rng.uniform(-_AHEAD_RAD, _AHEAD_RAD)
        yaw = float(angle + rng.uniform(-_TURN_RAD, _TURN_RAD))
        goal = (float(x + away * np.cos(angle)), float(y + away * np.sin(angle)), 0.0)
        return {
            "object": Placement((float(x), float(y), _HALF_M[2]), yaw),
            "goal": Placement(goal, float(angle)),
        }

    def holds(self, state: WorldState) -> Tensor:
        """Return bool `[w]`: on the rectangle, aligned with it and at rest now."""
        near = over_goal(state, _WITHIN_M)
        return near & _aligned(state) & (state.object_speed < _SLOW_M_S)

    def milestones(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return how far the box is: both paddles at it, most of the way done, on the rectangle."""
        at_box = (apart(state.arms[..., :3], state.object_pos[:, None]) < _AT_BOX_M).all(-1)
        to_go = apart(state.object_pos[:, :2], state.goal_pos[:, :2])
        there = (to_go < _WITHIN_M) & _aligned(state)
        return {"at the box": at_box, "under way": to_go < _UNDER_WAY_M, "on the rectangle": there}

    def quantities(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return paddles, box and rectangle."""
        arms = of_arms(state, "left", "right", grippers=False)
        return {**arms, **of_object(state), **of_goals(state, heading=True)}
