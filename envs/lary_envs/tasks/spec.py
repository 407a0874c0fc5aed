"""What a task is, and the registry of tasks."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lary_envs.robots import robot_of
from lary_policy.errors import SimulationError, UnknownNameError

if TYPE_CHECKING:
    import mujoco
    from torch import Tensor

    from lary_envs.tasks.phases import Phase


@dataclass(frozen=True)
class TaskSpec:
    """A task as a user sees it.

    Attributes:
        name: Registry name.
        instruction: The task in words.
        success: The success condition in physical terms.
        max_steps: Control steps after which an episode ends.
        hold_s: Seconds for which the condition must hold without a break.
        control_hz: Control steps a second.
        embodiment: Name of the action layout; it decides which robot stands in the scene.
    """

    name: str
    instruction: str
    success: str
    max_steps: int
    hold_s: float
    control_hz: float = 20.0
    embodiment: str = "arm7"

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras of the scene."""
        return robot_of(self.embodiment).camera_names

    @property
    def hold_steps(self) -> int:
        """Consecutive control steps for which the condition must hold."""
        return max(1, round(self.hold_s * self.control_hz))


@dataclass(frozen=True)
class Placement:
    """Where a body starts: position in metres (world frame) and yaw in radians."""

    pos_m: tuple[float, float, float]
    yaw_rad: float = 0.0


@dataclass(frozen=True)
class WorldState:
    """Measured state of all w worlds after a control step; what success conditions and experts read.

    Arms appear as poses x, y, z (metres, world frame), roll, pitch, yaw (radians), opening in [0, 1].

    Attributes:
        arms: `[w, A, 7]` measured poses of the tool centre points, left before right.
        goals: `[w, G, 3]` centres of the goals, metres (G is 1, all zeros, in tasks without one).
        goal_yaw: `[w]` radians, of the first goal.
        object_pos: `[w, 3]` centre of the object (zeros in tasks without one).
        object_rot: `[w, 3, 3]` its rotation matrix.
        object_speed: `[w]` m/s.
        object_peak: `[w]` highest z of the object's centre since the reset, metres.
    """

    arms: Tensor
    goals: Tensor
    goal_yaw: Tensor
    object_pos: Tensor
    object_rot: Tensor
    object_speed: Tensor
    object_peak: Tensor

    @property
    def tcp_pose(self) -> Tensor:
        """Pose `[w, 7]` of the first arm."""
        return self.arms[:, 0]

    @property
    def goal_pos(self) -> Tensor:
        """Centre `[w, 3]` of the first goal."""
        return self.goals[:, 0]

    @property
    def object_yaw(self) -> Tensor:
        """Yaw `[w]` of the object, radians."""
        return self.object_rot[:, 1, 0].atan2(self.object_rot[:, 0, 0])


class Task(Protocol):
    """Scene objects, initial states and success of one task.

    Bodies are named `object` (free), `goal` and `goal_2` (mocap). `holds` must work on any device without
    looking at values from Python.
    """

    def build(self, scene: mujoco.MjSpec) -> None:
        """Add the task's bodies to the table scene."""

    def sample(self, rng: np.random.Generator) -> Mapping[str, Placement]:
        """Draw the initial placement of every body that was added."""

    def holds(self, state: WorldState) -> Tensor:
        """Return bool `[w]`: the instantaneous condition (durations are kept by SimEnv)."""


@dataclass(frozen=True)
class TaskEntry:
    """A registered task: its spec, its factory and the phases of its scripted expert."""

    spec: TaskSpec
    factory: Callable[[], Task]
    phases: Callable[[], tuple[Phase, ...]]


_TASKS: dict[str, TaskEntry] = {}


def register_task[T: Callable[[], Task]](
    spec: TaskSpec, phases: Callable[[], tuple[Phase, ...]]
) -> Callable[[T], T]:
    """Register the decorated task class under `spec.name`.

    Raises:
        SimulationError: The name is taken.
    """

    def decorate(factory: T) -> T:
        if spec.name in _TASKS:
            raise SimulationError(
                expected="a new task name", got=f"'{spec.name}' twice", fix="Rename one of the two tasks."
            )
        _TASKS[spec.name] = TaskEntry(spec, factory, phases)
        return factory

    return decorate


def _discover() -> None:
    from lary_envs import tasks

    for module in pkgutil.iter_modules(tasks.__path__):
        importlib.import_module(f"{tasks.__name__}.{module.name}")


def list_tasks() -> tuple[str, ...]:
    """Return the names of all tasks: every module in `lary_envs/tasks` registers its own."""
    _discover()
    return tuple(sorted(_TASKS))


def task_entry(name: str) -> TaskEntry:
    """Return the registry entry of a task.

    Raises:
        UnknownNameError: There is no such task; the message lists the known ones.
    """
    if name not in list_tasks():
        raise UnknownNameError("task", name, list_tasks())
    return _TASKS[name]


def task_spec(name: str) -> TaskSpec:
    """Return the spec of a task.

    Raises:
        UnknownNameError: There is no such task; the message lists the known ones.
    """
    return task_entry(name).spec
