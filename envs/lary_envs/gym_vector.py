"""Many worlds as one gymnasium vector environment: one physics call and one render call for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from lary_envs.gym_core import GymCore, Observation
from lary_envs.gym_env import SEED_RANGE
from lary_policy.errors import SimulationError

type Step = tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class LaryVectorEnv(gymnasium.vector.VectorEnv[Observation, NDArray[np.float32], NDArray[Any]]):
    """`num_envs` worlds of one task; see `LaryEnv` for rewards and the end of an episode.

    Args:
        task: Name of a task, see `lary_envs.list_tasks`.
        num_envs: Worlds.
        render_mode: `rgb_array`, or None.
        autoreset_mode: When a finished world starts its next episode, as in gymnasium: in the next step (the
            default), in the same step, or never.
        options: Keyword arguments of `GymCore`.
    """

    def __init__(
        self,
        task: str,
        num_envs: int = 1,
        *,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        **options: Any,
    ) -> None:
        self._core = GymCore(task, num_envs, **options)
        self._mode = AutoresetMode(autoreset_mode)
        self.metadata = {
            "render_modes": ["rgb_array"], "render_fps": 20, "autoreset_mode": self._mode,
        }  # fmt: skip
        self.num_envs, self.render_mode = num_envs, render_mode
        self.task, self.task_description = task, self._core.spec.instruction
        self._max_episode_steps = self._core.max_steps
        self.single_action_space = self._core.action_space
        self.single_observation_space = self._core.observation_space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._done = np.zeros(num_envs, dtype=bool)

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Start episodes in all worlds, or in those of `options["reset_mask"]`.

        Args:
            seed: One for each world, or s for s, s + 1, ...; missing ones are drawn.
            options: `reset_mask`, a bool array `[num_envs]`, resets some worlds only.

        Raises:
            SimulationError: The number of seeds or the mask does not fit.
        """
        super().reset(seed=seed if isinstance(seed, int) else None)
        chosen = np.flatnonzero(self._mask(options))
        seeds = self._seeds(seed)
        self._core.reset([seeds[w] for w in chosen], chosen.tolist())
        self._done[chosen] = False
        return self._core.observe(), self._info(np.zeros(self.num_envs, dtype=bool))

    def step(self, actions: NDArray[np.float32]) -> Step:
        """Execute targets `[num_envs, a]`; worlds that finished before start again instead.

        Raises:
            ShapeError: The actions have another shape or are not finite.
            SimulationError: A target is out of reach, or a finished world was not reset in mode `Disabled`.
        """
        waiting = self._done.copy()
        if self._mode is AutoresetMode.DISABLED and waiting.any():
            raise SimulationError(
                expected="worlds that were reset after their episodes",
                got=f"finished worlds {np.flatnonzero(waiting).tolist()}",
                fix='Call reset(options={"reset_mask": done}) first.',
            )
        success = self._core.step(self._held(actions, waiting)) & ~waiting
        truncated = (self._core.steps >= self._core.max_steps) & ~success & ~waiting
        info = self._info(success)
        self._restart(waiting)
        self._done = success | truncated
        if self._mode is AutoresetMode.SAME_STEP and self._done.any():
            info |= self._final(success)
            self._restart(self._done)
            self._done = np.zeros_like(self._done)
        return self._core.observe(), success.astype(np.float64), success, truncated, info

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return the first camera's frame of every world, or None without a render mode."""
        if self.render_mode is None:
            return None
        return tuple(self._core.sim.frames()[:, 0].cpu().numpy())

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return attribute `name` once for every world, called when it is a method; as SyncVectorEnv does."""
        value = getattr(self, name)
        return (value(*args, **kwargs) if callable(value) else value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute once for every world."""
        return self.call(name)

    def close_extras(self, **kwargs: Any) -> None:
        """Free the renderer."""
        self._core.sim.close()

    def _held(self, actions: NDArray[np.float32], waiting: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Let finished worlds hold still in their last step: their actions do not count."""
        if not waiting.any():
            return actions
        rest = np.zeros_like(actions) if self._core.relative else self._core.controller.pose().cpu().numpy()
        return np.where(waiting[:, None], rest, actions)

    def _restart(self, worlds: NDArray[np.bool_]) -> None:
        chosen = np.flatnonzero(worlds)
        if len(chosen):
            seeds = self.np_random.integers(SEED_RANGE, size=len(chosen)).tolist()
            self._core.reset(seeds, chosen.tolist())

    def _final(self, success: NDArray[np.bool_]) -> dict[str, Any]:
        """Return the last observations and infos of finished worlds, as SyncVectorEnv lays them out."""
        batch, rows = self._core.observe(), np.full(self.num_envs, None, dtype=object)
        for world in np.flatnonzero(self._done):
            pixels = {name: frames[world] for name, frames in batch["pixels"].items()}
            rows[world] = {"pixels": pixels, "agent_pos": batch["agent_pos"][world]}
        final = {"is_success": success.copy(), "_is_success": self._done.copy()}
        done = self._done.copy()
        return {"final_obs": rows, "_final_obs": done, "final_info": final, "_final_info": done}

    def _info(self, success: NDArray[np.bool_]) -> dict[str, Any]:
        return {"is_success": success, "_is_success": np.ones(self.num_envs, dtype=bool)}

    def _mask(self, options: dict[str, Any] | None) -> NDArray[np.bool_]:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        if np.shape(mask) != (self.num_envs,) or np.asarray(mask).dtype != bool or not np.any(mask):
            raise SimulationError(
                expected=f"reset_mask as bool [{self.num_envs}] with at least one True",
                got=f"{mask}",
                fix="Leave it out to reset all worlds.",
            )
        return np.asarray(mask)

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int]:
        if isinstance(seed, int):
            return [seed + world for world in range(self.num_envs)]
        given: Sequence[int | None] = [None] * self.num_envs if seed is None else seed
        if len(given) != self.num_envs:
            raise SimulationError(
                expected=f"{self.num_envs} seeds", got=f"{len(given)}", fix="Pass one seed a world."
            )
        drawn = self.np_random.integers(SEED_RANGE, size=self.num_envs).tolist()
        return [new if own is None else int(own) for own, new in zip(given, drawn, strict=True)]
