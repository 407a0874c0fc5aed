"""Makes every task a gymnasium environment: `gymnasium.make("lary_envs:lary/PandaReach-v0")`."""

from __future__ import annotations

import gymnasium

from lary_envs.tasks import families, list_tasks, task_spec


def gym_ids() -> dict[str, str]:
    """Return the gymnasium id of each task."""
    others = (name for family in families().values() for name in family.specs())
    return {task: f"lary/{task_spec(task).gym_id}-v0" for task in (*list_tasks(), *others)}


def register_envs() -> None:
    """Register all tasks; nothing heavy is imported before an environment is made."""
    for task, name in gym_ids().items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point="lary_envs.gym.single:LaryEnv",
                vector_entry_point="lary_envs.gym.vector:LaryVectorEnv",
                kwargs={"task": task},
            )
