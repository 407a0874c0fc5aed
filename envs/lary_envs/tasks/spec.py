"""What a task is, and the registry of tasks."""

from __future__ import annotations

import ast
import difflib
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lary_policy.errors import SimulationError, UnknownNameError
from lary_policy.machine import require_extra

if TYPE_CHECKING:
    import mujoco
    import numpy as np
    from torch import Tensor

    from lary_envs.tasks.phases import Phase
    from lary_envs.tasks.state import WorldState


_GYMNASIUM_ID = re.compile(r"(?:gym(?:nasium)?:)?(?P<id>(?:[\w.]+:)?[\w./-]+-v\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class TaskSpec:
    """A task as a user sees it. Every field is a literal where a task states it, see `list_tasks`."""

    name: str  # registry name
    gym_id: str  # its name in gymnasium, between `lary/` and `-v0`
    instruction: str  # the task in words
    success: str  # the success condition in physical terms
    max_steps: int  # control steps after which an episode ends
    hold_s: float  # seconds for which the condition must hold without a break
    control_hz: float = 20.0  # control steps a second
    embodiment: str = "arm7"  # name of the action layout; it decides which robot stands in the scene
    views: tuple[str, ...] = ()  # cameras of a scene that others made, the two usual ones first
    varied: bool = True  # whether its worlds can look otherwise, see `lary_envs.randomisation`
    packages: tuple[str, ...] = ()  # distributions that its worlds are made of, besides our own
    drawing: int = 0  # raised when pictures or labels change: demonstrations recorded before are not reused

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras of the scene."""
        if self.views:
            return self.views
        require_extra("sim")
        from lary_envs.robots import robot_of

        return robot_of(self.embodiment).camera_names

    @property
    def usual_cameras(self) -> tuple[str, ...]:
        """Those that are used where none is asked for: from the front and on the hands, or two fixed ones."""
        from lary_envs.robots import robot_of

        if self.views:
            return self.views[:2]
        robot = robot_of(self.embodiment)
        return ("front", *robot.wrist_cameras) if robot.wrist_cameras else tuple(robot.cameras)

    @property
    def film_camera(self) -> str:
        """The camera that shows everything; of a scene that others made its first."""
        from lary_envs.robots import OVERVIEW

        return self.views[0] if self.views else OVERVIEW

    @property
    def hold_steps(self) -> int:
        """Consecutive control steps for which the condition must hold."""
        return max(1, round(self.hold_s * self.control_hz))


@dataclass(frozen=True)
class Placement:
    """Where a body starts: position in metres (world frame) and yaw in radians."""

    pos_m: tuple[float, float, float]
    yaw_rad: float = 0.0


class TaskScene(Protocol):
    """What stands on the table. Bodies are named `object` (free), `goal` and `goal_2` (mocap)."""

    def build(self, scene: mujoco.MjSpec) -> None:
        """Add the task's bodies to the table scene."""

    def sample(self, rng: np.random.Generator) -> Mapping[str, Placement]:
        """Draw the initial placement of every body that was added."""


class TaskRules(Protocol):
    """How a state is judged and described; on any device, without looking at values from Python."""

    def holds(self, state: WorldState) -> Tensor:
        """Return bool `[w]`: the instantaneous condition (durations are kept by SimEnv)."""

    def milestones(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return bool `[w]` for each stage on the way to success, in order; a later one counts as all."""

    def quantities(self, state: WorldState) -> Mapping[str, Tensor]:
        """Return what matters in a state by name, `[w, q]`: what a probe of states is asked for."""


class Task(TaskScene, TaskRules, Protocol):
    """Scene objects, initial states, success, progress and state of one task."""


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
        family = families().get(name.partition("/")[0])
        others = family is not None and name in family.specs()
        meant = f"lary_envs.open_world('{name}', num_worlds)" if others else ""
        raise UnknownNameError("task of our own simulator", name, list_tasks(), meant=meant)
    if name not in _TASKS:
        importlib.import_module(f"{__package__}.{_declared()[name][0]}")
    return _TASKS[name]


def task_spec(name: str) -> TaskSpec:
    """Return the spec of a task, without importing a simulator.

    Raises:
        UnknownNameError: There is no such task; the message lists the known ones, or says how an id of
            gymnasium is written.
    """
    if name in _declared():
        return _declared()[name][1]
    family = families().get(name.partition("/")[0])
    if family is not None and name in family.specs():
        return family.specs()[name]
    if name not in _TASKS:
        others = [other for each in families().values() for other in each.specs()]
        raise UnknownNameError(
            "task", name, (*list_tasks(), *others), meant=_meant(name, others),
            listed=f"All: `lary rollout --help`, with env={' or env='.join(families())} those of others.",
        )  # fmt: skip
    return _TASKS[name].spec


def family_written(name: str) -> tuple[str, str]:
    """Return the family that a name, e.g. `gym:Meta-World/MT1`, starts with, or "", and the rest."""
    for family in families():
        start = re.match("[-_]?".join(family) + r"(?:[-_/:]|$)", plain := name.removeprefix("gym:"), re.I)
        if start:
            return family, plain[start.end() :]
    return "", name


def _meant(name: str, others: Sequence[str]) -> str:
    """Return the task of others that a name may stand for, how an id of gymnasium is written, or ""."""
    family, rest = family_written(name)
    if family:
        names = {one.partition("/")[2]: one for one in others if one.startswith(f"{family}/")}
        near = difflib.get_close_matches(rest.lower(), names, 1)
        return names[near[0]] if near else f"{family}/<task>"
    specs = [spec for each in families().values() for spec in each.specs().values()]
    for spec in specs:
        short = spec.name.partition("/")[2]
        if name.rpartition("/")[2] in (
            short,
            f"{short.rpartition('-')[0]}",
            spec.gym_id,
            f"{spec.gym_id}-v0",
        ):
            return spec.name
    foreign = _GYMNASIUM_ID.fullmatch(name)
    return f"gym:{foreign['id']}" if foreign else ""


class Family(Protocol):
    """Tasks that others made, called `<family>/<name>`: `FAMILY` of `lary_envs/<family>/family.py`."""

    def specs(self) -> Mapping[str, TaskSpec]:
        """Return every task by its whole name, without importing what they are made of."""

    def open(self, spec: TaskSpec, num_worlds: int, /, **settings: Any) -> Any:
        """Return worlds of a task with the attributes and methods of `lary_envs.SimEnv`."""


@cache
def families() -> Mapping[str, Family]:
    """Return the families of tasks that others made, by name."""
    places = Path(__file__).parents[1].glob("*/family.py")
    names = sorted(place.parent.name for place in places)
    return {name: importlib.import_module(f"lary_envs.{name}.family").FAMILY for name in names}
