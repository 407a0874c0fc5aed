"""One world of a task in plain MuJoCo: the same model and initial state as in `SimEnv`, none of its code."""

from __future__ import annotations

from typing import Any

import torch

from lary_envs.robots import robot_of
from lary_envs.scene import TIMESTEP_S, InitialStates, build_model
from lary_envs.tasks import task_entry


class PlainWorld:
    """A `mujoco.MjData` of a task.

    Args:
        task: Name of the task.

    Attributes:
        model: The compiled scene.
        data: Its state.
        initial: Draws initial states by seed.
        robot: The robot in the scene.
        substeps: Physics steps of a control step.
    """

    def __init__(self, task: str) -> None:
        import mujoco

        entry = task_entry(task)
        rules = entry.factory()
        self.robot = robot_of(entry.spec.embodiment)
        self.model: Any = build_model(rules, entry.spec.embodiment)
        self.data: Any = mujoco.MjData(self.model)
        self.initial = InitialStates(self.model, self.robot, rules)
        self.substeps = round(1 / (entry.spec.control_hz * TIMESTEP_S))

    def reset(self, seed: int) -> None:
        """Go to the initial state of a seed."""
        import mujoco

        mujoco.mj_resetData(self.model, self.data)
        values = self.initial.draw([seed])
        for name, value in zip(("qpos", "mocap_pos", "mocap_quat", "ctrl"), values, strict=True):
            getattr(self.data, name)[:] = value[0].numpy()
        mujoco.mj_forward(self.model, self.data)

    def step(self, ctrl: Any) -> None:
        """Run one control step with commands `[nu]`."""
        import mujoco

        self.data.ctrl[:] = ctrl
        mujoco.mj_step(self.model, self.data, self.substeps)


def swing(ctrl: torch.Tensor, step: int) -> torch.Tensor:
    """Return commands a little beside `ctrl`, so that the arms never come to rest."""
    return ctrl * (1 + 0.02 * float(torch.sin(torch.tensor(0.3 * step))))
