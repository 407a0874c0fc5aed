"""Many worlds as one gymnasium vector environment: one physics call and one render call for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from lary_envs.env import Remade
from lary_envs.gym.core import GymCore, Mask, Observation, Outcome
from lary_envs.gym.single import SEED_RANGE, world_of
from lary_policy.errors import SimulationError, UnknownNameError

# Beside gymnasium's modes: finished worlds rest until `reset`, and every further step repeats how they ended,
# with reward 0. LeRobot's evaluation steps a batch until its last episode has ended.
LATCHED = "Latched"

type Step = tuple[Observation, NDArray[np.float64], Mask, Mask, dict[str, Any]]


class LaryVectorEnv(Remade, gymnasium.vector.VectorEnv[Observation, NDArray[np.float32], NDArray[Any]]):
    """`num_envs` worlds of one task; see `LaryEnv` for rewards and the end of an episode.

    Args:
        autoreset_mode: When a finished world starts its next episode, as in gymnasium: in the next step (the
            default), in the same step, or never (to step it is an error); or `LATCHED`.
        options: Keyword arguments of `GymCore`.

    Raises:
        UnknownNameError: Unknown autoreset mode, or as in `GymCore`.
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
        mode = autoreset_mode.value if isinstance(autoreset_mode, AutoresetMode) else autoreset_mode
        valid = [*(known.value for known in AutoresetMode), LATCHED]
        if mode not in valid:
            raise UnknownNameError("autoreset mode", mode, valid)
        self._latched = mode == LATCHED
        self._mode = AutoresetMode.DISABLED if self._latched else AutoresetMode(mode)
        self._core = GymCore(task, num_envs, **options)
        fps = round(self._core.spec.control_hz)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": fps, "autoreset_mode": self._mode}
        self.num_envs, self.render_mode = num_envs, render_mode
        self.task, self.task_description = task, self._core.spec.instruction
        self._max_episode_steps = self._core.max_steps
        self.single_action_space = self._core.action_space
        self.single_observation_space = self._core.observation_space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._done: Mask = np.zeros(num_envs, dtype=bool)
        self._ended = Outcome.none(num_envs)

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
        self._ended = self._ended.where(~self._done, Outcome.none(self.num_envs))
        return self._core.observe(self._done if self._latched else None), self._info(self._ended)

    def step(self, actions: NDArray[np.float32]) -> Step:
        """Execute targets `[num_envs, a]`; worlds that finished before start again instead, or rest.

        Raises:
            ResetNeeded: A world was never reset.
            ShapeError: The actions have another shape or are not finite.
            SimulationError: A target is out of reach, or a finished world was not reset in mode `Disabled`.
        """
        waiting = self._done.copy()
        if self._mode is AutoresetMode.DISABLED and not self._latched and waiting.any():
            raise SimulationError(
                expected="worlds that were reset after their episodes",
                got=f"finished worlds {np.flatnonzero(waiting).tolist()}",
                fix='Call reset(options={"reset_mask": done}) first.',
            )
        outcome = self._core.step(actions, waiting)
        reward, self._done = outcome.success.astype(np.float64), outcome.done
        if self._latched:
            return self._latch(outcome, waiting, reward)
        info = self._info(outcome)
        self._restart(waiting)
        if self._mode is AutoresetMode.SAME_STEP and self._done.any():
            info |= self._final(outcome)
            self._restart(self._done)
            self._done = np.zeros_like(self._done)
        return self._core.observe(), reward, outcome.terminated, outcome.truncated, info

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return the first camera's frame of every world, or None without a render mode."""
        if self.render_mode is None:
            return None
        return tuple(self._core.film().clone().cpu().numpy())

    def call(self, name: str, *args: Any, **kwargs: Any) -> Sequence[Any]:
        """Return attribute `name` once for every world, called when it is a method; as SyncVectorEnv does.

        `call("render")` returns the frames of the last observation, and copies only those looked at: LeRobot
        takes the first few after every step.
        """
        if name == "render" and self.render_mode is not None:
            return RecordedFrames(self._core.film())
        value = getattr(self, name)
        return (value(*args, **kwargs) if callable(value) else value,) * self.num_envs

    def get_attr(self, name: str) -> Sequence[Any]:
        """Return an attribute once for every world."""
        return self.call(name)

    def close_extras(self, **kwargs: Any) -> None:
        """Free the renderer; the environment must not be used afterwards."""
        self._core.close()

    def _latch(self, outcome: Outcome, resting: Mask, reward: NDArray[np.float64]) -> Step:
        self._ended = outcome.where(resting, self._ended)
        self._done = self._ended.done
        ended = self._ended
        return self._core.observe(resting), reward, ended.terminated, ended.truncated, self._info(ended)

    def _restart(self, worlds: Mask) -> None:
        chosen = np.flatnonzero(worlds)
        if len(chosen):
            seeds = self.np_random.integers(SEED_RANGE, size=len(chosen)).tolist()
            self._core.reset(seeds, chosen.tolist())

    def _final(self, outcome: Outcome) -> dict[str, Any]:
        """Return the last observations and infos of finished worlds, as SyncVectorEnv lays them out."""
        batch, rows = self._core.observe(), np.full(self.num_envs, None, dtype=object)
        for world in np.flatnonzero(self._done):
            rows[world] = world_of(batch, world)
        final = {k: self._done.copy() if k[0] == "_" else v for k, v in self._info(outcome).items()}
        done = self._done.copy()
        return {"final_obs": rows, "_final_obs": done, "final_info": final, "_final_info": done}

    def _info(self, outcome: Outcome) -> dict[str, Any]:
        values: dict[str, Any] = {"is_success": outcome.success.copy()}
        if not self._core.raises:
            values["failure"] = outcome.names()
        return values | {f"_{name}": np.ones(self.num_envs, dtype=bool) for name in values}

    def _mask(self, options: dict[str, Any] | None) -> Mask:
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


class RecordedFrames(Sequence[NDArray[np.uint8]]):
    """Frames uint8 `[w, h, w, 3]` of all worlds that are copied to the host when they are looked at."""

    def __init__(self, frames: Tensor) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: Any) -> Any:
        return self._frames[index].cpu().numpy()
