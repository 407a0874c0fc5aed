"""Pick and place: lift a cube and put it down on a disc."""

from __future__ import annotations

import math
from collections.abc import Mapping

import mujoco
import numpy as np
from torch import Tensor

from lary_envs.scene import add_cube, add_goal_disc
from lary_envs.tasks.phases import Phase, at_height, pose
from lary_envs.tasks.spec import Placement, TaskSpec, register_task
from lary_envs.tasks.state import WorldState, apart, of_arms, of_goals, of_object, over_goal, rests

_HALF_M, _MASS_KG = 0.02, 0.05
_LOW_M, _HIGH_M = (0.38, -0.15), (0.62, 0.15)
_APART_M = 0.12  # cube and disc must not touch at the start
_YAW_RAD = math.pi / 4
_WITHIN_M, _LIFTED_M, _SLOW_M_S = 0.04, 0.05, 0.05
_RELEASED = 0.75  # fingers more than 6 cm apart: 2 cm wider than the cube
_HOVER_M, _CARRY_M = 0.12, 0.14
_HOLDING = 0.56  # opening at which both fingers touch the 4 cm cube (0.5), with some slack

SPEC = TaskSpec(
    name="pick_place",
    gym_id="PandaPickPlace",
    instruction="pick up the red cube and place it on the green disc",
    success="the cube was lifted by 5 cm or more, and now for 0.25 s: its centre is within 4 cm of the "
    "disc's (horizontally), it rests on the table, is slower than 5 cm/s, the fingers are over 6 cm apart",
    max_steps=120,
    hold_s=0.25,
)


def phases() -> tuple[Phase, ...]:
    """Return the expert's legs: over the cube, down, close, up, over the disc, down, open, up."""

    def cube(state: WorldState, height_m: float, gripper: float) -> Tensor:
        return pose(at_height(state.object_pos, height_m), state.object_yaw, gripper)

    def disc(state: WorldState, height_m: float, gripper: float) -> Tensor:
        return pose(at_height(state.goal_pos, height_m), 0.0, gripper)

    return (
        Phase("over the cube", lambda s: cube(s, _HOVER_M, 1.0), 0.015, free=True, track=True),
        Phase("down to it", lambda s: cube(s, _HALF_M, 1.0), 0.004, track=True),
        Phase("close", lambda s: cube(s, _HALF_M, 0.0), 0.01, done=lambda s: s.tcp_pose[:, 6] < _HOLDING),
        Phase("lift", lambda s: cube(s, _CARRY_M, 0.0), 0.03),
        Phase("over the disc", lambda s: disc(s, _CARRY_M, 0.0), 0.015, free=True),
        Phase("down to it", lambda s: disc(s, _HALF_M + 0.003, 0.0), 0.005),
        Phase("open", lambda s: disc(s, _HALF_M + 0.003, 1.0), 0.01, done=lambda s: s.tcp_pose[:, 6] > 0.9),
        Phase("up", lambda s: disc(s, _HOVER_M, 1.0), 0.0),
    )


@register_task(SPEC, phases)
class PickPlace:
    """A 4 cm cube and a disc in an area of 24 x 30 cm, the cube turned by up to 45 degrees."""

    def build(self, scene: mujoco.MjSpec) -> None:
        """Add cube and disc."""
        add_cube(scene, _HALF_M, _MASS_KG)
        add_goal_disc(scene)

    def sample(self, rng: np.random.Generator) -> Mapping[str, Placement]:
        """Draw both positions uniformly, again until they are far enough apart."""
        while True:
            cube, disc = rng.uniform(_LOW_M, _HIGH_M, (2, 2))
            if np.linalg.norm(cube - disc) > _APART_M:
                break
        yaw = float(rng.uniform(-_YAW_RAD, _YAW_RAD))
        return {
            "object": Placement((float(cube[0]), float(cube[1]), _HALF_M), yaw),
            "goal": Placement((float(disc[0]), float(disc[1]), 0.0)),
        }

    def holds(self, state: WorldState) -> Tensor:
        """Return bool `[w]`: lifted before, and now on the disc, at rest and released."""
        near = over_goal(state, _WITHIN_M)
        lifted = state.object_peak > _HALF_M + _LIFTED_M
        return (
            near
            & rests(state, _HALF_M)
            & lifted
            & (state.object_speed < _SLOW_M_S)
            & (state.tcp_pose[:, 6] > _RELEASED)
        )

    def milestones(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return how far the cube is: between the fingers, held, lifted, over the disc, on it."""
        at_cube = apart(state.tcp_pose[:, :3], state.object_pos) < _HALF_M
        lifted = state.object_peak > _HALF_M + _LIFTED_M
        over = lifted & over_goal(state, _WITHIN_M)
        return {
            "at the cube": at_cube, "grasped": at_cube & (state.tcp_pose[:, 6] < _HOLDING), "lifted": lifted,
            "over the disc": over, "placed": over & rests(state, _HALF_M),
        }  # fmt: skip

    def quantities(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return hand, cube and disc."""
        return {**of_arms(state, "hand"), **of_object(state), **of_goals(state)}
