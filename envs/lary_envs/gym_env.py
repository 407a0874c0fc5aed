"""One world as a gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from lary_envs.gym_core import GymCore, Observation

SEED_RANGE = 2**31 - 1


class LaryEnv(gymnasium.Env[Observation, NDArray[Any]]):
    """A simulated task; the episode terminates at success and is truncated after the task's steps.

    The reward is 1 in the step in which the task succeeds, else 0; `info["is_success"]` says the same.

    Args:
        task: Name of a task, see `lary_envs.list_tasks`.
        render_mode: `rgb_array`, or None.
        options: Keyword arguments of `GymCore`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (gymnasium's)

    def __init__(self, task: str, *, render_mode: str | None = None, **options: Any) -> None:
        self._core = GymCore(task, 1, **options)
        self.render_mode = render_mode
        self.task, self.task_description = task, self._core.spec.instruction
        self._max_episode_steps = self._core.max_steps
        self.action_space = self._core.action_space
        self.observation_space = self._core.observation_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; its initial state depends on `seed` alone, or is drawn without one."""
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(SEED_RANGE)) if seed is None else seed
        self._core.reset([drawn])
        return self._first(self._core.observe()), {"is_success": False, "seed": drawn}

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Execute one target `[a]`.

        Raises:
            ShapeError: The action has another shape or is not finite.
            SimulationError: The target is out of reach.
        """
        success = bool(self._core.step(np.asarray(action)[None])[0])
        truncated = bool(self._core.steps[0] >= self._core.max_steps) and not success
        observation = self._first(self._core.observe())
        return observation, float(success), success, truncated, {"is_success": success}

    def render(self) -> NDArray[np.uint8] | None:
        """Return the first camera's frame `[h, w, 3]`, or None without a render mode."""
        if self.render_mode is None:
            return None
        return self._core.sim.frames()[0, 0].cpu().numpy()

    def close(self) -> None:
        """Free the renderer."""
        self._core.sim.close()

    def _first(self, batch: Observation) -> Observation:
        pixels = {name: frames[0] for name, frames in batch["pixels"].items()}
        return {"pixels": pixels, "agent_pos": batch["agent_pos"][0]}
