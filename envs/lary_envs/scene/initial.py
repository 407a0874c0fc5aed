"""Initial states: one draw a seed, whatever the number of worlds."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lary_envs.physics import body_id
from lary_envs.robots import Robot
from lary_envs.tasks import Placement, Task

HOME_NOISE_RAD = 0.03


class InitialStates:
    """Draws positions, goals and first commands of a task, for the compiled scene and the robot in it."""

    def __init__(self, model: mujoco.MjModel, robot: Robot, task: Task) -> None:
        self._model, self._robot, self._task = model, robot, task
        self._actuated = [int(model.joint(model.actuator(i).name).qposadr[0]) for i in range(model.nu)]

    def draw(
        self, seeds: Sequence[int], rise_m: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return float64 `qpos` `[n, nq]`, goals `[n, nmocap, 3]` and `[n, nmocap, 4]`, `ctrl` `[n, nu]`.

        Args:
            seeds: One a world.
            rise_m: How much higher `[n]` the centres of the objects are, because they vary in size.
        """
        rows = [self._draw_one(int(seed)) for seed in seeds]
        qpos, pos, quat, ctrl = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        body = body_id(self._model, "object")
        if rise_m is not None and body >= 0:
            qpos[:, int(self._model.jnt_qposadr[self._model.body_jntadr[body]]) + 2] += rise_m
        return qpos, pos, quat, ctrl

    def _draw_one(self, seed: int) -> tuple[NDArray[np.float64], ...]:
        rng, model = np.random.default_rng(seed), self._model
        qpos = model.qpos0.copy()
        for arm in self._robot.arms:
            noise = rng.uniform(-HOME_NOISE_RAD, HOME_NOISE_RAD, arm.chain.num_joints)
            for name, angle in zip(arm.joints, arm.chain.home + noise, strict=True):
                qpos[model.joint(name).qposadr[0]] = angle
            if arm.gripper is not None:
                for name in arm.gripper.fingers:
                    qpos[model.joint(name).qposadr[0]] = arm.gripper.open_m
        pos, quat = np.zeros((model.nmocap, 3)), np.tile([1.0, 0.0, 0.0, 0.0], (model.nmocap, 1))
        for name, placement in self._task.sample(rng).items():
            self._place(body_id(model, name), placement, qpos, pos, quat)
        return qpos, pos, quat, qpos[self._actuated]

    def _place(
        self, body: int, placement: Placement, qpos: NDArray[np.float64], pos: NDArray[np.float64],
        quat: NDArray[np.float64],
    ) -> None:  # fmt: skip
        half = placement.yaw_rad / 2
        turn = [np.cos(half), 0.0, 0.0, np.sin(half)]
        mocap = int(self._model.body_mocapid[body])
        if mocap >= 0:
            pos[mocap], quat[mocap] = placement.pos_m, turn
            return
        start = int(self._model.jnt_qposadr[self._model.body_jntadr[body]])
        qpos[start : start + 7] = [*placement.pos_m, *turn]
