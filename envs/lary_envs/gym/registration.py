"""Makes every task a gymnasium environment: `gymnasium.make("lary_envs:lary/PandaReach-v0")`."""

from __future__ import annotations

import gymnasium
import yaml

from lary_policy.paths import choices, configs_dir


def gym_ids() -> dict[str, str]:
    """Return the gymnasium id of each task, as its file in configs/env names it."""
    ids = {}
    for task in choices("env"):
        raw = yaml.safe_load((configs_dir() / "env" / f"{task}.yaml").read_text())
        ids[raw["name"]] = f"lary/{raw['gym_id']}-v0"
    return ids


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
