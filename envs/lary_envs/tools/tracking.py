"""How closely a simulated robot follows the targets of its controller; `envs/README.md` shows the figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lary_envs.controller import EndEffectorController
from lary_envs.env import SimEnv
from lary_envs.kinematics import TorchChain, limit_length
from lary_envs.robots import Robot
from lary_envs.tasks import list_tasks, task_entry
from lary_policy.actions import euler_xyz_to_matrix, geodesic_angle_rad, matrix_to_euler_xyz
from lary_policy.errors import SimulationError

_LEG_STEPS, _LEGS = 10, 5  # velocity changes abruptly after each leg of 0.5 s; the last leg stands still
_SPEED_M_S, _TURN_RAD_S, _STEP_S = 0.4, 0.5, 0.05
_AROUND_M = (0.10, 0.12, 0.05)  # places are this near to home, above everything on the table
_AROUND_RAD, _LIMIT_MARGIN_RAD = 0.3, 0.1  # joints stay this near to home, and this far from their limits


@dataclass(frozen=True)
class TrackingReport:
    """Errors between target and measured pose of the tool centre points, at the end of each control step."""

    embodiment: str  # name of the action layout
    paths: int  # random paths of five legs of 0.5 s, with abrupt turns between them, then 0.5 s at rest
    median_speed_m_s: float  # median speed of the targets on the way
    max_speed_m_s: float  # their largest speed
    moving_median_mm: float  # median distance on the way
    moving_p95_mm: float  # 95 % are nearer
    moving_median_deg: float  # median angle on the way
    settled_median_mm: float  # median distance after 0.5 s at rest
    settled_max_mm: float  # the largest of them


def measure_tracking(embodiment: str, *, paths: int = 50, seed: int = 0) -> TrackingReport:
    """Let the simulated robot of an embodiment follow random paths with all its arms.

    Raises:
        UnknownNameError: No robot has this embodiment.
        SimulationError: It has no task without an object in the way.
    """
    controller = EndEffectorController(paths, embodiment=embodiment)
    env = SimEnv(_free_task(embodiment), paths)
    env.reset(range(paths))
    controller.reset(env.joints())
    targets, distance, angle = _random_paths(env.robot, paths, seed), [], []
    for target in targets:
        env.step(controller.command(env.layout.to_action(target)))
        measured = env.world_state().arms
        distance.append(1e3 * (measured[..., :3] - target[..., :3]).norm(dim=-1))
        turned = (euler_xyz_to_matrix(pose[..., 3:6]) for pose in (measured, target))
        angle.append(geodesic_angle_rad(*turned).rad2deg())
    places = torch.stack(targets[: _LEGS * _LEG_STEPS])[..., :3]
    speed = places.diff(dim=0).norm(dim=-1) / _STEP_S
    moving, turning = (torch.stack(errors[: _LEGS * _LEG_STEPS]) for errors in (distance, angle))
    return TrackingReport(
        embodiment=embodiment,
        paths=paths,
        median_speed_m_s=float(speed.median()),
        max_speed_m_s=float(speed.max()),
        moving_median_mm=float(moving.median()),
        moving_p95_mm=float(moving.quantile(0.95)),
        moving_median_deg=float(turning.median()),
        settled_median_mm=float(distance[-1].median()),
        settled_max_mm=float(distance[-1].max()),
    )


def _random_paths(robot: Robot, paths: int, seed: int) -> list[Tensor]:
    """Return targets `[w, A, 7]` of all control steps.

    They are poses of joints near home that carry the tools from one random place to the next, so that every
    target can be reached, by arms with little room around home too.
    """
    rng, chain = np.random.default_rng(seed), TorchChain([arm.chain for arm in robot.arms])
    low = torch.maximum(chain.home - _AROUND_RAD, chain.lower + _LIMIT_MARGIN_RAD)
    high = torch.minimum(chain.home + _AROUND_RAD, chain.upper - _LIMIT_MARGIN_RAD)
    home = chain.forward(chain.home[None])[0]
    joints, targets = chain.home.expand(paths, *chain.home.shape), []
    for leg in range(_LEGS + 1):
        place, spin = torch.from_numpy(rng.uniform(-1, 1, (2, *joints.shape[:2], 3)))
        way = home + place * place.new_tensor(_AROUND_M) - chain.forward(joints)[0]
        velocity = limit_length(way / (_LEG_STEPS * _STEP_S), _SPEED_M_S)
        twist = torch.cat([velocity, _TURN_RAD_S * spin], -1) * (leg < _LEGS)
        for _ in range(_LEG_STEPS):
            inverse = torch.linalg.pinv(chain.jacobian(joints)[2], rtol=0.05)  # no leaps near singularities
            joints = torch.clamp(joints + (inverse @ twist[..., None])[..., 0] * _STEP_S, low, high)
            pos, rot = chain.forward(joints)
            targets.append(torch.cat([pos, matrix_to_euler_xyz(rot), torch.ones_like(pos[..., :1])], -1))
    return targets


def _free_task(embodiment: str) -> str:
    """Return a task of an embodiment in which nothing lies on the table."""
    rng = np.random.default_rng(0)
    entries = [task_entry(name) for name in list_tasks()]
    own = [entry for entry in entries if entry.spec.embodiment == embodiment]
    for entry in own:
        if "object" not in entry.factory().sample(rng):
            return entry.spec.name
    raise SimulationError(
        expected=f"a task of embodiment '{embodiment}' without an object",
        got=f"{[entry.spec.name for entry in own]}",
        fix="Add one, such as a reaching task, to lary_envs/tasks.",
    )
