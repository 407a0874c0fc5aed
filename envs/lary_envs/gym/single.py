"""One world as a gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from lary_envs.env import Remade
from lary_envs.gym.core import GymCore, Observation, Outcome

SEED_RANGE = 2**31 - 1


class LaryEnv(Remade, gymnasium.Env[Observation, NDArray[Any]]):
    """A simulated task; the episode terminates at success and is truncated after the task's steps.

    The reward is 1 in the step in which the task succeeds, else 0; `info["is_success"]` says the same. With
    `on_failure="end"` an episode also terminates at a failure, whose name is `info["failure"]`. Pickles and
    copies are made again from the arguments, before their first reset.

    Args:
        options: Keyword arguments of `GymCore`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (gymnasium's)

    def __init__(self, task: str, *, render_mode: str | None = None, **options: Any) -> None:
        self._core = GymCore(task, 1, **options)
        self.metadata = {**type(self).metadata, "render_fps": round(self._core.spec.control_hz)}
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
        return world_of(self._core.observe(), 0), {**self._info(Outcome.none(1)), "seed": drawn}

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Execute one target `[a]`.

        Raises:
            ResetNeeded: There was no reset.
            ShapeError: The action has another shape or is not finite.
            SimulationError: The target is out of reach.
        """
        outcome = self._core.step(np.asarray(action)[None])
        reward, terminated, truncated = outcome.success[0], outcome.terminated[0], outcome.truncated[0]
        observation = world_of(self._core.observe(), 0)
        return observation, float(reward), bool(terminated), bool(truncated), self._info(outcome)

    def render(self) -> NDArray[np.uint8] | None:
        """Return the first camera's frame `[h, w, 3]`, or None without a render mode."""
        if self.render_mode is None:
            return None
        return self._core.film()[0].clone().cpu().numpy()

    def close(self) -> None:
        """Free the renderer; the environment must not be used afterwards."""
        self._core.close()

    def _info(self, outcome: Outcome) -> dict[str, Any]:
        info: dict[str, Any] = {"is_success": bool(outcome.success[0])}
        return info if self._core.raises else {**info, "failure": outcome.names()[0]}


def world_of(batch: Observation, world: int) -> Observation:
    """Return the observation of one world out of a batch."""
    return {k: world_of(v, world) if isinstance(v, dict) else v[world] for k, v in batch.items()}
