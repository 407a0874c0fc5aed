"""Success, failure and smoothness of every world, kept on the device of the simulation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lary_policy.types import FAILURES, OUT_OF_REACH, EpisodeResult


class Books:
    """The books of w worlds; nothing in here waits for a GPU before `results`.

    Args:
        impossible: Reason why a world is not run at all, or None, one a world.
        device: Where states and actions live.
    """

    def __init__(self, impossible: Sequence[str | None], device: torch.device) -> None:
        def zeros(dtype: torch.dtype) -> Tensor:
            return torch.zeros(len(impossible), dtype=dtype, device=device)

        self._impossible = tuple(impossible)
        self._never_run = torch.tensor([reason is not None for reason in impossible], device=device)
        self._code, self._first = zeros(torch.uint8), zeros(torch.long)
        self._steps, self._jerk = zeros(torch.long), zeros(torch.float32)
        self._progress = zeros(torch.float32)
        self.success_now = zeros(torch.bool)
        self._finished = zeros(torch.bool)
        self._last_move: Tensor | None = None

    def running(self) -> Tensor:
        """Return bool `[w]`: worlds that still execute actions."""
        return (self._code == 0) & ~self._never_run & ~self._finished

    def stop(self, codes: Tensor) -> None:
        """Stop worlds whose code `[w]` is not 0; a world keeps its first reason."""
        self._code = torch.where(self.running(), codes.to(self._code.dtype), self._code)

    def finish(self, worlds: Tensor) -> None:
        """Stop worlds (bool `[w]`) that are done, without a failure."""
        self._finished |= worlds

    def record(self, step: int, success: Tensor, move: Tensor, progress: Tensor) -> None:
        """Enter a control step (from 0): bool success `[w]` after it, and progress `[w]` from 0 to 1.

        `move` is the commanded displacement `[w A 3]` of the tools, metres.
        """
        running = self.running()
        self.success_now = torch.where(running, success, self.success_now & self._finished)
        if self._last_move is not None:
            change = (move - self._last_move).square().sum((-1, -2))
            self._jerk += torch.where(running, change, torch.zeros_like(change))
        self._last_move = move
        self._steps = torch.where(running, step + 1, self._steps)
        self._progress = torch.where(running, progress, self._progress)
        first = running & self.success_now & (self._first == 0)
        self._first = torch.where(first, step + 1, self._first)

    def explain(self, out_of_reach: Tensor) -> None:
        """Name the reason of episodes without success that ended short of a target, bool `[w]`."""
        self.stop(torch.where(self._first == 0, out_of_reach, False) * OUT_OF_REACH)

    def results(self, seeds: Sequence[int]) -> tuple[EpisodeResult, ...]:
        """Copy everything to the host and return one result a world."""
        columns = (self._code, self._first, self._steps, self._jerk, self.success_now, self._progress)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return tuple(
            EpisodeResult(
                seed=seed,
                success=first > 0,
                success_at_end=now and code == 0,
                steps=steps,
                first_success_step=first or None,
                failure=reason or FAILURES[code],
                smoothness=jerk / max(steps - 1, 1),
                progress=progress,
            )
            for seed, reason, (code, first, steps, jerk, now, progress) in zip(
                seeds, self._impossible, rows, strict=True
            )
        )
