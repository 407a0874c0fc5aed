"""Humanoid place: both grippers lift a tray by its handles and put it on a plate."""

from __future__ import annotations

import math
from collections.abc import Mapping

import mujoco
import numpy as np
from torch import Tensor

from lary_envs.robots.humanoid import APPROACH_M, hand, hands
from lary_envs.scene import add_box, add_goal_plate, add_piece
from lary_envs.tasks.phases import Phase, at_height, both
from lary_envs.tasks.spec import Placement, TaskSpec, register_task
from lary_envs.tasks.state import WorldState, apart, of_arms, of_goals, of_object, over_goal, rests

_HALF_M, _MASS_KG = (0.07, 0.095, 0.006), 0.20  # of the tray's bottom
_HANDLE_M, _HANDLE_HALF_M, _HANDLE_KG = (0.0, 0.122, 0.020), (0.013, 0.034, 0.010), 0.02  # a handle's centre
_WALL_HALF_M, _WALL_KG = (0.004, 0.095, 0.012), 0.02
_PLATE_HALF_M = (0.085, 0.110)
_LOW_M, _HIGH_M = (0.41, -0.08), (0.44, 0.08)  # of both centres
_APART_M = 0.08
_YAW_RAD = math.radians(8)
_WITHIN_M, _TURNED_RAD, _LIFTED_M, _SLOW_M_S = 0.03, math.radians(10), 0.05, 0.05
_GRIP_M = 0.130  # from the tray's centre to a hand
_HOVER_M, _CARRY_M, _GRASP_Z_M = 0.11, 0.11, 0.030  # lower fingers would touch the table
_READY, _CLOSED, _RELEASED = 0.6, 0.0, 0.5  # openings: 6 cm while approaching; a handle is 2.6 cm wide
_HOLDING = 0.28
_AT_HANDLE_M = 0.03  # from a hand to where it grips a handle
_GENTLE_M, _SLOW_M = 0.006, 0.012
_TURN_RAD, _STRAIGHT_RAD = 0.03, math.radians(1.5)

SPEC = TaskSpec(
    name="humanoid_place",
    gym_id="HumanoidPlace",
    instruction="lift the red tray with both grippers and put it on the green plate",
    success="the tray was lifted by 5 cm or more, and now for 0.25 s: its centre is within 3 cm of the "
    "plate's (horizontally), it is turned less than 10 degrees from it, rests on the table, is slower than "
    "5 cm/s, both grippers are open over 5 cm",
    max_steps=100,
    hold_s=0.25,
    embodiment="arm16",
)


def _hold_at(state: WorldState, centre: Tensor, yaw_rad: Tensor, height_m: float, gripper: float) -> Tensor:
    """Return poses `[w, 2, 7]` at both handles of a tray at `[w, 3]` centres, turned by `[w]` yaws."""
    across = centre.new_zeros(len(centre), 3)
    across[:, 0], across[:, 1] = -yaw_rad.sin() * _GRIP_M, yaw_rad.cos() * _GRIP_M
    spot = at_height(centre, height_m)
    left = hand(spot + across, gripper, yaw_rad=yaw_rad)
    return hands(state, left, hand(spot - across, gripper, yaw_rad=yaw_rad))


def _at_tray(state: WorldState, height_m: float, gripper: float) -> Tensor:
    return _hold_at(state, state.object_pos, state.object_yaw, height_m, gripper)


def _at_plate(state: WorldState, height_m: float, gripper: float) -> Tensor:
    return _hold_at(state, state.goal_pos, state.goal_yaw, height_m, gripper)


def _turning(state: WorldState) -> Tensor:
    """Return poses with the tray turned a little further, since hands turn faster than they move."""
    step = (state.goal_yaw - state.object_yaw).clamp(-_TURN_RAD, _TURN_RAD)
    return _hold_at(state, state.object_pos, state.object_yaw + step, _CARRY_M, _CLOSED)


def _aligned(state: WorldState) -> Tensor:
    return (state.arms[..., 5] - state.object_yaw[:, None]).abs().amax(-1) < _STRAIGHT_RAD


def _straight(state: WorldState) -> Tensor:
    return (state.goal_yaw - state.object_yaw).abs() < _STRAIGHT_RAD


def _hold(state: WorldState) -> Tensor:
    return (state.arms[..., 6] < _HOLDING).all(-1)


def _let_go(state: WorldState) -> Tensor:
    return (state.arms[..., 6] > _RELEASED).all(-1)


def _turned(state: WorldState) -> Tensor:
    return (state.goal_yaw - state.object_yaw).abs() < _TURNED_RAD


def phases() -> tuple[Phase, ...]:
    """Return the expert's legs: to the handles, close, lift, turn, over the plate, down, open, up."""
    low = _GRASP_Z_M + 0.002
    return (
        Phase(
            "over the handles", lambda s: _at_tray(s, _HOVER_M, _READY), 0.015, done=_aligned,
            speed_m=APPROACH_M, free=True, track=True,
        ),
        Phase("down to them", lambda s: _at_tray(s, _GRASP_Z_M, _READY), 0.005, track=True),
        Phase("close", lambda s: _at_tray(s, _GRASP_Z_M, _CLOSED), 0.01, done=_hold),
        Phase("lift", lambda s: _at_tray(s, _CARRY_M, _CLOSED), 0.02, speed_m=_GENTLE_M),
        # First turning, then carrying: in each leg both hands go equally far, and stay equally apart.
        Phase("turn", _turning, 1.0, done=_straight, speed_m=_GENTLE_M, track=True),
        Phase("over the plate", lambda s: _at_plate(s, _CARRY_M, _CLOSED), 0.01, speed_m=_SLOW_M),
        Phase("down to it", lambda s: _at_plate(s, low, _CLOSED), 0.006, speed_m=_SLOW_M),
        Phase("open", lambda s: _at_plate(s, low, _READY), 0.01, done=_let_go),
        Phase("up", lambda s: _at_plate(s, _HOVER_M, _READY), 0.0),
    )  # fmt: skip


@register_task(SPEC, phases)
class HumanoidPlace:
    """A tray of 14 x 19 cm with two handles, and a plate; both in 3 x 16 cm, turned up to 8 degrees."""

    def build(self, scene: mujoco.MjSpec) -> None:
        """Add tray and plate."""
        tray = add_box(scene, _HALF_M, _MASS_KG)
        x, y, z = _HANDLE_M
        wall_x, wall_z = _HALF_M[0] - _WALL_HALF_M[0], _HALF_M[2] + _WALL_HALF_M[2]
        for side in (-1, 1):
            add_piece(tray, (x, side * y, z), _HANDLE_HALF_M, _HANDLE_KG)
            add_piece(tray, (side * wall_x, 0.0, wall_z), _WALL_HALF_M, _WALL_KG)
        add_goal_plate(scene, _PLATE_HALF_M)

    def sample(self, rng: np.random.Generator) -> Mapping[str, Placement]:
        """Draw both positions uniformly, again until they are far enough apart, and both yaws."""
        while True:
            tray, plate = rng.uniform(_LOW_M, _HIGH_M, (2, 2))
            if np.linalg.norm(tray - plate) > _APART_M:
                break
        tray_yaw, plate_yaw = (float(yaw) for yaw in rng.uniform(-_YAW_RAD, _YAW_RAD, 2))
        return {
            "object": Placement((float(tray[0]), float(tray[1]), _HALF_M[2]), tray_yaw),
            "goal": Placement((float(plate[0]), float(plate[1]), 0.0), plate_yaw),
        }

    def holds(self, state: WorldState) -> Tensor:
        """Return bool `[w]`: lifted before, and now on the plate, straight, at rest and released."""
        near = over_goal(state, _WITHIN_M)
        lifted = state.object_peak > _HALF_M[2] + _LIFTED_M
        put_down = near & _turned(state) & rests(state, _HALF_M[2]) & lifted
        return put_down & _let_go(state) & (state.object_speed < _SLOW_M_S)

    def milestones(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return how far the tray is: at both hands, in them, lifted, over the plate, on it."""
        across = state.object_rot[:, :, 1] * _GRIP_M
        grips = both(state.object_pos + across, state.object_pos - across)
        at_tray = (apart(state.arms[..., :3], grips) < _AT_HANDLE_M).all(-1)
        lifted = state.object_peak > _HALF_M[2] + _LIFTED_M
        over = lifted & over_goal(state, _WITHIN_M)
        return {
            "at the handles": at_tray, "grasped": at_tray & _hold(state), "lifted": lifted,
            "over the plate": over, "placed": over & rests(state, _HALF_M[2]) & _turned(state),
        }  # fmt: skip

    def quantities(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return both hands, tray and plate."""
        arms = of_arms(state, "left", "right")
        return {**arms, **of_object(state), **of_goals(state, heading=True)}
