"""Batched closed loop: plan a chunk, execute it step by step, keep the books for every world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lary_policy.errors import SimulationError
from lary_policy.rollout.agents import Agent, Observation
from lary_policy.types import EpisodeResult

if TYPE_CHECKING:
    from lary_envs import EndEffectorController, SimEnv


@dataclass
class EpisodeFrames:
    """Frames of some worlds for a video.

    Attributes:
        worlds: Which worlds are filmed.
        every: Film each n-th control step.
        frames: One uint8 `[v h w 3]` (first camera) a filmed step.
        success: One bool `[v]` a filmed step.
    """

    worlds: tuple[int, ...]
    every: int = 2
    frames: list[Tensor] = field(default_factory=list)
    success: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class RolloutResult:
    """Episodes of one cell and the film of a few of them."""

    episodes: tuple[EpisodeResult, ...]
    film: EpisodeFrames | None


class _Books:
    """Success, failure and smoothness of every world, step by step."""

    def __init__(self, seeds: Sequence[int], failures: Sequence[str | None]) -> None:
        w = len(seeds)
        self.seeds, self.failure = list(seeds), list(failures)
        self.first_success: list[int | None] = [None] * w
        self.steps = [0] * w
        self.success_now = torch.zeros(w, dtype=torch.bool)
        self.jerk_sum = torch.zeros(w)
        self._last_move: Tensor | None = None

    def running(self) -> Tensor:
        return torch.tensor([f is None for f in self.failure])

    def stop(self, reasons: Sequence[str | None]) -> None:
        self.failure = [old or new for old, new in zip(self.failure, reasons, strict=True)]

    def record(self, step: int, success: Tensor, move: Tensor) -> None:
        running = self.running()
        self.success_now = torch.where(running, success.cpu(), torch.zeros_like(success.cpu()))
        if self._last_move is not None:
            self.jerk_sum += (move - self._last_move).square().sum(-1) * running
        self._last_move = move
        for world in torch.nonzero(running).flatten().tolist():
            self.steps[world] = step + 1
            if self.first_success[world] is None and self.success_now[world]:
                self.first_success[world] = step + 1

    def results(self) -> tuple[EpisodeResult, ...]:
        return tuple(
            EpisodeResult(
                seed=seed,
                success=self.first_success[w] is not None,
                success_at_end=bool(self.success_now[w]) and self.failure[w] is None,
                steps=self.steps[w],
                first_success_step=self.first_success[w],
                failure=self.failure[w],
                smoothness=float(self.jerk_sum[w]) / max(self.steps[w] - 1, 1),
            )
            for w, seed in enumerate(self.seeds)
        )


def run_episodes(
    env: SimEnv,
    controller: EndEffectorController,
    make_agent: Callable[[], Agent],
    seeds: Sequence[int],
    *,
    max_steps: int,
    film: EpisodeFrames | None = None,
    impossible: Sequence[str | None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> RolloutResult:
    """Run one episode in each world, from the initial state of its seed to `max_steps`.

    A world whose planned target is not finite or far outside the workspace stops with a named failure; the
    others go on. Worlds run to the end even after a success, so that `success_at_end` means something.

    Args:
        env: Environment with one world for each seed.
        controller: Turns end-effector targets into joint commands.
        make_agent: Called after the reset, so that an agent may look at the initial state.
        seeds: One seed a world.
        max_steps: Control steps of an episode.
        film: Where to collect frames for a video, or None.
        impossible: Failure known beforehand for each world (e.g. `no_demonstration`), or None.
        on_progress: Called with (steps done, max_steps).

    Raises:
        SimulationError: The number of seeds differs from the number of worlds.
    """
    if len(seeds) != env.num_worlds:
        raise SimulationError(
            expected=f"{env.num_worlds} seeds, one for each world",
            got=str(len(seeds)),
            fix="Match num_worlds.",
        )
    env.reset(seeds)
    controller.reset(env.joints())
    agent, target, step, chunk_index = make_agent(), controller.pose(), 0, 0
    books = _Books(seeds, impossible or [None] * len(seeds))
    while step < max_steps and bool(books.running().any()):
        frames = env.frames() if agent.needs_frames else None
        chunk = agent.plan(Observation(frames, env.proprio(), target, chunk_index))
        for action in chunk.unbind(1)[: max_steps - step]:
            _film(film, env, books, step)
            books.stop(controller.check(action))
            action = torch.where(books.running().unsqueeze(-1), action, target)
            env.step(controller.command(action))
            books.record(step, env.success(), (action - target)[..., :3])
            target, step = action, step + 1
        chunk_index += 1
        if on_progress is not None:
            on_progress(step, max_steps)
    _film(film, env, books, 0)
    return RolloutResult(books.results(), film)


def _film(film: EpisodeFrames | None, env: SimEnv, books: _Books, step: int) -> None:
    if film is not None and step % film.every == 0:
        film.frames.append(env.frames(film.worlds)[:, 0].cpu())
        film.success.append(books.success_now[list(film.worlds)].clone())
