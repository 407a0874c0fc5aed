"""Handover: the left gripper picks up a stick and hands it to the right one, which puts it on a plate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import mujoco
import numpy as np
from torch import Tensor

from lary_envs.robots.humanoid import APPROACH_M, hand, hands, point, withdrawn
from lary_envs.scene import add_box, add_goal_plate
from lary_envs.tasks.phases import Phase, at_height
from lary_envs.tasks.spec import Placement, TaskSpec, register_task
from lary_envs.tasks.state import WorldState, apart, of_arms, of_goals, of_object, over_goal, rests

_HALF_M, _MASS_KG = (0.013, 0.11, 0.016), 0.05
_PLATE_HALF_M = (0.035, 0.12)
_LOW_M, _HIGH_M = (0.41, 0.11), (0.45, 0.16)  # of the stick's centre; the plate's area is its mirror image
_YAW_RAD = math.radians(12)
_WITHIN_M, _LIFTED_M, _SLOW_M_S = 0.04, 0.10, 0.05
_GRIP_M = 0.055  # from the stick's centre to a hand: 11 cm lie between the hands
_MEET_M = (0.43, 0.0, 0.17)  # the stick's centre while both hold it
_WAIT_M = (0.42, 0.19, 0.18)  # of an idle left hand; the right one's is the mirror image
_HOVER_M, _CARRY_M, _GRASP_Z_M = 0.11, 0.13, 0.024  # lower, a tip of a turned gripper touches the table
_AWAY_M = 0.07  # along the gripper's axis, so that its fingers clear the stick
_READY, _CLOSED, _RELEASED = 0.6, 0.0, 0.5  # openings: 6 cm while approaching
_HOLDING = 0.28  # both fingers touch the stick at 0.26; some slack
_AT_STICK_M = 0.03  # from a hand to where it grips the stick
_STRAIGHT_RAD = math.radians(2)
_GENTLE_M, _SLOW_M = 0.006, 0.012  # held away from its middle, the stick turns in the fingers when jerked

SPEC = TaskSpec(
    name="handover",
    gym_id="HumanoidHandover",
    instruction="pick up the red stick with the left gripper, hand it over to the right gripper and put it "
    "on the green plate",
    success="the stick was lifted by 10 cm or more, and now for 0.25 s: its centre is within 4 cm of the "
    "plate's (horizontally), it rests on the table, is slower than 5 cm/s, both grippers are open over 5 cm",
    max_steps=150,
    hold_s=0.25,
    embodiment="arm16",
)


def _on_stick(state: WorldState, offset_m: float) -> Tensor:
    """Return points `[w, 3]` on the stick, `offset_m` left of its centre."""
    return state.object_pos + state.object_rot[:, :, 1] * offset_m


def _left_picks(state: WorldState, height_m: float, gripper: float) -> Tensor:
    """Return poses with the left hand over the stick's left part while the right one waits."""
    spot = at_height(_on_stick(state, _GRIP_M), height_m)
    left = hand(spot, gripper, yaw_rad=state.object_yaw)
    x, y, z = _WAIT_M
    return hands(state, left, hand(point(state.object_pos, x, -y, z), _READY))


def _left_offers(state: WorldState, gripper: float, away_m: float = 0.0) -> Tensor:
    """Return the left hand's poses, with the stick straight and in the middle."""
    x, y, z = _MEET_M
    spot = withdrawn(point(state.object_pos, x, y + _GRIP_M, z), away_m, "left")
    return hand(spot, gripper)


def _right_takes(state: WorldState, gripper: float, away_m: float = 0.0) -> Tensor:
    """Return the right hand's poses around the stick's right part, wherever that is."""
    return hand(withdrawn(_on_stick(state, -_GRIP_M), away_m, "right"), gripper)


def _right_places(state: WorldState, height_m: float, gripper: float) -> Tensor:
    """Return poses with the stick over the plate while the left hand waits."""
    spot = at_height(state.goal_pos, height_m) - point(state.object_pos, 0.0, _GRIP_M, 0.0)
    waiting = hand(point(state.object_pos, *_WAIT_M), _READY)
    return hands(state, waiting, hand(spot, gripper))


def _offer(state: WorldState) -> Tensor:
    x, y, z = _WAIT_M
    return hands(state, _left_offers(state, _CLOSED), hand(point(state.object_pos, x, -y, z), _READY))


def _aligned(state: WorldState) -> Tensor:
    return (state.arms[:, 0, 5] - state.object_yaw).abs() < _STRAIGHT_RAD


def _straight(state: WorldState) -> Tensor:
    return state.arms[:, 0, 3:6].abs().amax(-1) < _STRAIGHT_RAD


def _holds(arm: int) -> Callable[[WorldState], Tensor]:
    return lambda state: state.arms[:, arm, 6] < _HOLDING


def _lets_go(arm: int) -> Callable[[WorldState], Tensor]:
    return lambda state: state.arms[:, arm, 6] > _RELEASED


def phases() -> tuple[Phase, ...]:
    """Return the expert's legs: left picks, lifts, offers; right takes; left lets go; right places."""

    def taking(state: WorldState, left: float, right: float, away_m: float = 0.0) -> Tensor:
        return hands(state, _left_offers(state, left), _right_takes(state, right, away_m))

    def leaving(state: WorldState) -> Tensor:
        return hands(state, _left_offers(state, _READY, _AWAY_M), _right_takes(state, _CLOSED))

    low = _GRASP_Z_M + 0.002
    return (
        Phase(
            "over it", lambda s: _left_picks(s, _HOVER_M, _READY), 0.015, done=_aligned, speed_m=APPROACH_M,
            free=True, track=True,
        ),
        Phase("down to it", lambda s: _left_picks(s, _GRASP_Z_M, _READY), 0.005, track=True),
        Phase("left closes", lambda s: _left_picks(s, _GRASP_Z_M, _CLOSED), 0.01, done=_holds(0)),
        Phase("lift", lambda s: _left_picks(s, _CARRY_M, _CLOSED), 0.03, speed_m=_GENTLE_M),
        Phase("offer", _offer, 0.005, done=_straight, speed_m=_SLOW_M),
        Phase("right near it", lambda s: taking(s, _CLOSED, _READY, _AWAY_M), 0.01, track=True),
        Phase("right around it", lambda s: taking(s, _CLOSED, _READY), 0.005, track=True),
        Phase("right closes", lambda s: taking(s, _CLOSED, _CLOSED), 0.01, done=_holds(1)),
        Phase("left opens", lambda s: taking(s, _READY, _CLOSED), 0.01, done=_lets_go(0)),
        Phase("left leaves", leaving, 0.02, speed_m=_SLOW_M),
        Phase("over the plate", lambda s: _right_places(s, _CARRY_M, _CLOSED), 0.015, speed_m=_SLOW_M),
        Phase("down to it", lambda s: _right_places(s, low, _CLOSED), 0.005, speed_m=_SLOW_M),
        Phase("right opens", lambda s: _right_places(s, low, _READY), 0.01, done=_lets_go(1)),
        Phase("up", lambda s: _right_places(s, _HOVER_M, _READY), 0.0),
    )  # fmt: skip


@register_task(SPEC, phases)
class Handover:
    """A 22 cm stick on the left, turned by up to 12 degrees, and a plate on the right, in 4 x 5 cm each."""

    def build(self, scene: mujoco.MjSpec) -> None:
        """Add stick and plate."""
        add_box(scene, _HALF_M, _MASS_KG)
        add_goal_plate(scene, _PLATE_HALF_M)

    def sample(self, rng: np.random.Generator) -> Mapping[str, Placement]:
        """Draw both centres and the stick's yaw uniformly."""
        stick, plate = rng.uniform(_LOW_M, _HIGH_M, (2, 2))
        yaw = float(rng.uniform(-_YAW_RAD, _YAW_RAD))
        return {
            "object": Placement((float(stick[0]), float(stick[1]), _HALF_M[2]), yaw),
            "goal": Placement((float(plate[0]), -float(plate[1]), 0.0)),
        }

    def holds(self, state: WorldState) -> Tensor:
        """Return bool `[w]`: lifted before, and now on the plate, at rest and released by both hands."""
        near = over_goal(state, _WITHIN_M)
        lifted = state.object_peak > _HALF_M[2] + _LIFTED_M
        released = (state.arms[..., 6] > _RELEASED).all(-1)
        return near & rests(state, _HALF_M[2]) & lifted & released & (state.object_speed < _SLOW_M_S)

    def milestones(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return how far the stick is: at the left hand, in it, lifted, in the right one, over the plate."""
        left, right = (
            apart(state.arms[:, arm, :3], _on_stick(state, side * _GRIP_M)) < _AT_STICK_M
            for arm, side in ((0, 1.0), (1, -1.0))
        )
        lifted = state.object_peak > _HALF_M[2] + _LIFTED_M
        handed = lifted & right & _holds(1)(state) & _lets_go(0)(state)
        over = lifted & over_goal(state, _WITHIN_M)
        return {
            "at the stick": left, "grasped": left & _holds(0)(state), "lifted": lifted, "handed over": handed,
            "over the plate": over, "placed": over & rests(state, _HALF_M[2]),
        }  # fmt: skip

    def quantities(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return both hands, stick and plate."""
        return {**of_arms(state, "left", "right"), **of_object(state), **of_goals(state)}
