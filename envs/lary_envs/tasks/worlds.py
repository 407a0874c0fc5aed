"""What worlds of a task share, whoever simulates them."""

from __future__ import annotations

from collections.abc import Sequence

from lary_envs.tasks.spec import TaskSpec
from lary_policy.errors import SimulationError


class TaskWorlds:
    """A batch of w worlds of one task.

    Attributes:
        task: Spec of the task.
        num_worlds: Worlds w.
    """

    task: TaskSpec
    num_worlds: int

    @property
    def control_hz(self) -> float:
        """Control steps a second."""
        return self.task.control_hz

    @property
    def max_steps(self) -> int:
        """Control steps of an episode."""
        return self.task.max_steps

    @property
    def instruction(self) -> str:
        """The task in words."""
        return self.task.instruction

    def _require_seeds(self, seeds: Sequence[int], count: int) -> None:
        """Raise SimulationError unless there is one seed for each of `count` worlds."""
        if len(seeds) != count:
            raise SimulationError(
                expected=f"{count} seeds, one a world", got=f"{len(seeds)}", fix="Pass one seed a world."
            )

    def _world_indices(self, worlds: Sequence[int]) -> list[int]:
        """Return indices of worlds; SimulationError where there are none, or one is out of range."""
        chosen = [int(w) for w in worlds]
        if not chosen or min(chosen) < 0 or max(chosen) >= self.num_worlds:
            raise SimulationError(
                expected=f"world indices from 0 to {self.num_worlds - 1}",
                got=f"{chosen}",
                fix="Choose others.",
            )
        return chosen
