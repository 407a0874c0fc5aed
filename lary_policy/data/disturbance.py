"""Disturbances of executed targets (DART): the robot is pushed off its path, the expert leads it back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

HOLD_STEPS = (3, 6)  # an offset is held this long: a single step would be filtered by the arm's own inertia
PROBABILITY = 0.5  # of a disturbance at the start of a chunk that follows an undisturbed one
_STREAM = 0xDA27  # keeps these random numbers apart from those of the initial state, which uses the bare seed


class Disturbance:
    """Random pose offsets for w worlds, each from its own generator, so that worlds do not touch each other.

    An offset starts at a chunk boundary and ends inside the same chunk, never in two chunks running: a chunk
    is either fully undisturbed or known to be disturbed. It ends early when the expert leaves free space.

    Args:
        seeds: Episode seed of each world.
        num_arms: Arms A; grippers are left alone.
        stride: Chunk length k.
        std_m: Standard deviation of the offset of each position number in metres, added at every held step.
        std_rad: The same for roll, pitch and yaw, in radians.
        enabled: Whether each world is disturbed at all.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        num_arms: int,
        stride: int,
        *,
        std_m: float,
        std_rad: float,
        enabled: Sequence[bool],
    ) -> None:
        self._generators = [np.random.default_rng([_STREAM, seed]) for seed in seeds]
        self._stride, self._enabled = stride, list(enabled)
        self._std = np.tile([std_m] * 3 + [std_rad] * 3 + [0.0], num_arms)
        self._left = [0] * len(seeds)  # steps for which the current offset is still held
        self._was_disturbed = [False] * len(seeds)
        self._offset = torch.zeros(len(seeds), num_arms, 7)

    def offsets(self, step: int, free_space: Tensor) -> Tensor:
        """Return offsets `[w A 7]` of the arm poses in control step `step`; zeros are undisturbed.

        Args:
            step: Control step, called with 0, 1, 2, ...
            free_space: bool `[w]`, where the expert says it is far from contact.
        """
        if step % self._stride == 0:
            for world in range(len(self._generators)):
                self._draw(world)
        out = torch.zeros_like(self._offset)
        for world, free in enumerate(free_space.tolist()):
            if not free:
                self._left[world] = 0
            if self._left[world] > 0:
                out[world] = self._offset[world]
                self._left[world] -= 1
        return out

    def _draw(self, world: int) -> None:
        """Decide on a disturbance of this chunk; always draws equally many numbers."""
        generator = self._generators[world]
        wanted, hold = (
            generator.random() < PROBABILITY,
            int(generator.integers(HOLD_STEPS[0], HOLD_STEPS[1] + 1)),
        )
        offset = generator.normal(size=len(self._std)) * self._std
        start = wanted and self._enabled[world] and not self._was_disturbed[world]
        self._was_disturbed[world] = start
        self._left[world] = min(hold, self._stride) if start else 0
        self._offset[world] = torch.from_numpy(offset).float().reshape(-1, 7)
