"""Dual lift: squeeze a bar between the paddles and raise it to a floating ball."""

from __future__ import annotations

import math
from collections.abc import Mapping

import mujoco
import numpy as np
import torch
from torch import Tensor

from lary_envs.robots import PADDLE_HALF_M
from lary_envs.scene import GREEN, add_box, add_goal_sphere
from lary_envs.tasks.phases import Phase, at_height, pair
from lary_envs.tasks.spec import Placement, TaskSpec, register_task
from lary_envs.tasks.state import WorldState, apart, of_arms, of_goals, of_object

_HALF_M, _MASS_KG = (0.045, 0.15, 0.03), 0.25
_BALL_RADIUS_M = 0.02
_LOW_M, _HIGH_M = (0.32, -0.03), (0.38, 0.03)
_RAISE_M = (0.12, 0.15)  # from the bar's centre to the ball
_YAW_RAD = math.radians(15)
_WITHIN_M, _LIFTED_M, _LEVEL_RAD = 0.025, 0.10, math.radians(15)
_GRASP_Z_M = 0.05  # paddles' centre while they squeeze: their lower edge is 5 mm above the table
_TOUCH_M = _HALF_M[1] + PADDLE_HALF_M[1]  # from the bar's centre to the paddles' while they touch it
_CLEAR_M, _SQUEEZE_M = 0.03, 0.010  # a centimetre of squeeze survives millimetres of error
_GRIPPED_M = 2 * _TOUCH_M - 0.0006  # both rubber faces give way by 0.3 mm: about 30 N
_LIFT_STEP_M = 0.012  # 0.24 m/s: a faster start lets the bar slip
_HOVER_M = 0.14
_AT_END_M = 0.05  # from where a paddle touches the bar's end: it comes down 3 cm beside it
_OFF_M = 0.02

SPEC = TaskSpec(
    name="dual_lift",
    gym_id="PiperDualLift",
    instruction="squeeze the red bar between the paddles and lift it to the green ball",
    success="for 1 s the bar is 10 cm or more above where it lay, its centre within 2.5 cm of the ball's and "
    "its tilt below 15 degrees",
    max_steps=100,
    hold_s=1.0,
    embodiment="arm12",
)


def _beside(state: WorldState, gap_m: float, height_m: float) -> Tensor:
    """Return poses at both ends of the bar, `gap_m` away from them."""
    return pair(at_height(state.object_pos, height_m), state.object_yaw, _TOUCH_M + gap_m)


def _raised(state: WorldState) -> Tensor:
    """Return poses that still squeeze and take the bar, which may have slipped a little, to the ball."""
    middle = state.arms[..., :3].mean(1)
    return pair(middle + state.goal_pos - state.object_pos, state.goal_yaw, _TOUCH_M - _SQUEEZE_M)


def _gripped(state: WorldState) -> Tensor:
    return (state.arms[:, 0, :3] - state.arms[:, 1, :3]).norm(dim=-1) < _GRIPPED_M


def phases() -> tuple[Phase, ...]:
    """Return the expert's legs: to both ends of the bar, down, squeeze, lift."""
    return (
        Phase("over both ends", lambda s: _beside(s, _CLEAR_M, _HOVER_M), 0.012, free=True, track=True),
        Phase("down", lambda s: _beside(s, _CLEAR_M, _GRASP_Z_M), 0.006, track=True),
        Phase("squeeze", lambda s: _beside(s, -_SQUEEZE_M, _GRASP_Z_M), 0.014, done=_gripped),
        Phase("lift", _raised, 0.0, speed_m=_LIFT_STEP_M, track=True),
    )


@register_task(SPEC, phases)
class DualLift:
    """A bar of 9 x 30 x 6 cm, turned by up to 15 degrees, and a ball 12 to 15 cm above its centre."""

    def build(self, scene: mujoco.MjSpec) -> None:
        """Add bar and ball."""
        add_box(scene, _HALF_M, _MASS_KG)
        add_goal_sphere(scene, _BALL_RADIUS_M, rgba=GREEN)

    def sample(self, rng: np.random.Generator) -> Mapping[str, Placement]:
        """Draw the bar in an area of 6 x 6 cm, and the ball over its centre, turned alike."""
        x, y = (float(value) for value in rng.uniform(_LOW_M, _HIGH_M))
        height = _HALF_M[2] + float(rng.uniform(*_RAISE_M))
        yaw = float(rng.uniform(-_YAW_RAD, _YAW_RAD))
        return {"object": Placement((x, y, _HALF_M[2]), yaw), "goal": Placement((x, y, height), yaw)}

    def holds(self, state: WorldState) -> Tensor:
        """Return bool `[w]`: raised, at the ball and level now."""
        raised = state.object_pos[:, 2] > _HALF_M[2] + _LIFTED_M
        near = (state.object_pos - state.goal_pos).norm(dim=-1) < _WITHIN_M
        return raised & near & (state.object_rot[:, 2, 2] > math.cos(_LEVEL_RAD))

    def milestones(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return how far the bar is: between the paddles, squeezed, off the table, lifted, at the ball."""
        ends = state.object_rot[:, :, 1] * _TOUCH_M
        left, right = state.arms[:, 0, :3] - ends, state.arms[:, 1, :3] + ends
        at_ends = torch.maximum(apart(left, state.object_pos), apart(right, state.object_pos)) < _AT_END_M
        raised_m = state.object_pos[:, 2] - _HALF_M[2]
        return {
            "between": at_ends, "squeezed": at_ends & _gripped(state), "off the table": raised_m > _OFF_M,
            "lifted": raised_m > _LIFTED_M, "at the ball": self.holds(state),
        }  # fmt: skip

    def quantities(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return paddles, bar and ball."""
        arms = of_arms(state, "left", "right", grippers=False)
        return {**arms, **of_object(state), **of_goals(state)}
