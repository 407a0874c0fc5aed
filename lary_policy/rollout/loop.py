"""Batched closed loop: plan a chunk, execute it step by step, keep the books for every world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lary_policy.actions import load_embodiment
from lary_policy.errors import SimulationError
from lary_policy.machine import leave_if_asked
from lary_policy.rollout.agents import Agent, Observation
from lary_policy.rollout.books import Books
from lary_policy.rollout.world import Controller, Ending, World
from lary_policy.types import DIVERGED, EpisodeResult


@dataclass(frozen=True)
class RolloutResult:
    """Episodes of one batch of worlds and the commands `[t w u]` that each executed, on the CPU."""

    episodes: tuple[EpisodeResult, ...]
    commands: Tensor


def run_episodes(
    env: World,
    controller: Controller,
    make_agent: Callable[[], Agent],
    seeds: Sequence[int],
    *,
    max_steps: int,
    impossible: Sequence[str | None] | None = None,
    stop_at_success: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> RolloutResult:
    """Run one episode in each world, from the initial state of its seed to `max_steps`.

    A world whose planned target is not finite or far outside the workspace, or whose simulation diverges,
    stops with a named failure; the others go on. An episode that ends without success while an arm rests
    short of a target beyond its reach is named `target_out_of_reach`. By default worlds run to the end even
    after a success, so that `success_at_end` means something. Stopped worlds are neither rendered nor encoded
    on a CPU; on a GPU they are masked, because looking at them from Python would make it wait.

    Args:
        env: Environment with one world for each seed.
        controller: Turns end-effector targets into joint commands.
        make_agent: Called after the reset, so that an agent may look at the initial state.
        seeds: One seed a world.
        max_steps: Control steps of an episode.
        impossible: Failure known beforehand for each world (e.g. `no_demonstration`), or None.
        stop_at_success: End a world's episode at its first success, as gymnasium's `terminated` does.
        on_progress: Called with (steps done, max_steps).

    Raises:
        SimulationError: The number of seeds differs from the number of worlds.
        ContactOverflowError: A world had more contacts than the engine has room for.
    """
    if len(seeds) != env.num_worlds:
        raise SimulationError(
            expected=f"{env.num_worlds} seeds, one for each world",
            got=str(len(seeds)),
            fix="Match num_worlds.",
        )
    env.reset(seeds)
    controller.reset(env.joints())
    loop = _Loop(env, controller, Books(impossible or [None] * len(seeds), env.device))
    agent = make_agent()
    while loop.step < max_steps and not loop.all_stopped():
        leave_if_asked()
        loop.execute(loop.plan(agent), max_steps, stop_at_success)
        if on_progress is not None:
            on_progress(loop.step, max_steps)
    env.check()
    loop.books.explain(controller.out_of_reach())
    commands = torch.stack(loop.commands).cpu() if loop.commands else torch.zeros(0, len(seeds), 0)
    return RolloutResult(loop.books.results(seeds), commands)


class _Loop:
    """The state of one closed loop between chunks."""

    def __init__(self, env: World, controller: Controller, books: Books) -> None:
        self.books, self.step = books, 0
        self.commands: list[Tensor] = []
        self._env, self._controller = env, controller
        self._target, self._chunk_index = controller.pose(), 0
        self._on_host = env.device.type == "cpu"
        places = [g.indices for g in load_embodiment(env.contract.embodiment).groups if g.kind == "position"]
        self._places = torch.tensor(places, dtype=torch.long, device=env.device)  # [A 3]

    def all_stopped(self) -> bool:
        """Return whether nothing is left to do; on a GPU nobody looks."""
        return self._on_host and not bool(self.books.running().any())

    def plan(self, agent: Agent) -> Tensor:
        """Ask the agent for the next chunk `[w k a]`."""
        worlds = self._observed() if agent.needs_frames else None
        frames = None
        if agent.needs_frames:
            frames = self._env.frames(None if worlds is None else worlds.tolist())
        seen = Observation(frames, self._env.proprio(), self._target, self._chunk_index, worlds)
        self._chunk_index += 1
        return agent.plan(seen).to(self._target.device)

    def execute(self, chunk: Tensor, max_steps: int, stop_at_success: bool) -> None:
        """Execute a chunk action by action; worlds that stopped repeat their last target."""
        env, books = self._env, self.books
        for action in chunk.unbind(1)[: max_steps - self.step]:
            books.stop(self._controller.check_codes(action))
            action = torch.where(books.running().unsqueeze(-1), action, self._target)
            ctrl = self._controller.command(action, validate=self._on_host)
            self.commands.append(ctrl.clone())
            env.step(ctrl, validate=self._on_host)
            books.stop(env.diverged() * DIVERGED)
            moved = action[:, self._places] - self._target[:, self._places]
            books.record(self.step, env.success(), moved, env.progress())
            if stop_at_success:
                books.finish(books.success_now)
            if isinstance(env, Ending):
                books.finish(env.ended())
            self._target, self.step = action, self.step + 1

    def _observed(self) -> Tensor | None:
        """Return the running worlds, or None when all are or when counting them would make a GPU wait."""
        if not self._on_host:
            return None
        running = self.books.running()
        return None if bool(running.all()) else torch.nonzero(running).flatten()
