"""What a task is, and the registry of tasks."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lary_policy.errors import SimulationError, UnknownNameError

if TYPE_CHECKING:
    import mujoco
    import numpy as np
    from torch import Tensor

    from lary_envs.tasks.phases import Phase


@dataclass(frozen=True)
class TaskSpec:
    """A task as a user sees it. Every field is a literal where a task states it, see `list_tasks`.

    Attributes:
        name: Registry name.
        gym_id: Its name in gymnasium, between `lary/` and `-v0`.
        instruction: The task in words.
        success: The success condition in physical terms.
        max_steps: Control steps after which an episode ends.
        hold_s: Seconds for which the condition must hold without a break.
        control_hz: Control steps a second.
        embodiment: Name of the action layout; it decides which robot stands in the scene.
    """

    name: str
    gym_id: str
    instruction: str
    success: str
    max_steps: int
    hold_s: float
    control_hz: float = 20.0
    embodiment: str = "arm7"

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras of the scene."""
        from lary_envs.robots import robot_of

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


@cache
def _declared() -> Mapping[str, tuple[str, TaskSpec]]:
    """Return module and spec of every task of this folder, by name, as its source states them.

    Importing a task imports a simulator, which whoever asks for names or gymnasium ids may not want, or have.
    """
    found: dict[str, tuple[str, TaskSpec]] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            call = node.value if isinstance(node, ast.Assign) else None
            if isinstance(call, ast.Call) and ast.unparse(call.func) == TaskSpec.__name__:
                spec = TaskSpec(**{str(word.arg): ast.literal_eval(word.value) for word in call.keywords})
                found[spec.name] = (path.stem, spec)
    return found


def list_tasks() -> tuple[str, ...]:
    """Return the names of all tasks: those that modules of `lary_envs/tasks` state, and registered ones."""
    return tuple(sorted({*_declared(), *_TASKS}))


def task_entry(name: str) -> TaskEntry:
    """Return the registry entry of a task, whose module is imported.

    Raises:
        UnknownNameError: There is no such task; the message lists the known ones.
    """
    if name not in list_tasks():
        raise UnknownNameError("task", name, list_tasks())
    if name not in _TASKS:
        importlib.import_module(f"{__package__}.{_declared()[name][0]}")
    return _TASKS[name]


def task_spec(name: str) -> TaskSpec:
    """Return the spec of a task, without importing a simulator.

    Raises:
        UnknownNameError: There is no such task; the message lists the known ones.
    """
    return _declared()[name][1] if name in _declared() else task_entry(name).spec
