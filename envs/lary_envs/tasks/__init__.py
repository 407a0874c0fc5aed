"""One file a task; each registers itself with `lary_envs.tasks.spec.register_task`."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "Phase": "lary_envs.tasks.phases",
    "Placement": "lary_envs.tasks.spec",
    "Task": "lary_envs.tasks.spec",
    "TaskSpec": "lary_envs.tasks.spec",
    "WorldState": "lary_envs.tasks.spec",
    "both": "lary_envs.tasks.phases",
    "list_tasks": "lary_envs.tasks.spec",
    "register_task": "lary_envs.tasks.spec",
    "task_entry": "lary_envs.tasks.spec",
    "task_spec": "lary_envs.tasks.spec",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import public names on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'. Public: {', '.join(__all__)}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
