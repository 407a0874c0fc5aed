"""One door to all worlds: our own tasks, and those of families that others made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lary_envs.tasks import families, task_spec
from lary_policy.machine import require_extra

if TYPE_CHECKING:
    from lary_envs.env import SimEnv
    from lary_envs.metaworld import MetaWorldEnv

type Simulation = SimEnv | MetaWorldEnv


def open_world(task: str, num_worlds: int, **settings: Any) -> Simulation:
    """Return worlds of a task, with their `controller()` and `expert()`.

    Args:
        task: Name of a task, e.g. `reach` or `metaworld/reach-v3`.
        num_worlds: Worlds w.
        settings: As of `lary_envs.SimEnv`: `cameras`, `image_px`, `render_device`, ...

    Raises:
        UnknownNameError: There is no such task, camera or setting.
        ConfigError: The extra `sim` is missing; the message is the command that adds it.
        SimulationError: A count below 1, or what the worlds are made of is not installed.
    """
    spec = task_spec(task)
    require_extra("sim")
    family = families().get(task.partition("/")[0])
    if family is not None:
        worlds: Simulation = family.open(spec, num_worlds, **settings)
        return worlds
    from lary_envs.env import SimEnv

    return SimEnv(task, num_worlds, **settings)
