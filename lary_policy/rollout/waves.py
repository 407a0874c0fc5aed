"""Any number of episodes on any number of worlds: batch after batch, resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lary_policy.errors import SimulationError, StoreError
from lary_policy.paths import foreign_file, read_json, write_json
from lary_policy.rollout.agents import Agent
from lary_policy.rollout.film import Film
from lary_policy.rollout.loop import run_episodes
from lary_policy.rollout.world import Controller, World
from lary_policy.types import EpisodeResult

IDLE = "idle"  # a world of the last wave that has no episode


@dataclass(frozen=True)
class Wave:
    """The agent of one batch of seeds, and the seeds that cannot be run at all."""

    make_agent: Callable[[], Agent]  # called after the reset
    impossible: Sequence[str | None]  # reason why a seed is not run, or None, one a seed


def run_waves(
    env: World,
    controller: Controller,
    prepare: Callable[[Sequence[int]], Wave],
    seeds: Sequence[int],
    *,
    max_steps: int,
    film: Film | None = None,
    stop_at_success: bool = False,
    on_wave: Callable[[tuple[EpisodeResult, ...]], bool | None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[EpisodeResult, ...]:
    """Run one episode for each seed, `env.num_worlds` at a time, in the order of the seeds.

    The initial state of an episode depends on its seed only, so the results depend on the number of worlds
    only as far as a larger batch rounds differently in encoder and head; with agents that plan `alone` not
    at all.

    Args:
        env: Environment; its worlds are reused from wave to wave.
        controller: Controller with as many worlds.
        prepare: Returns agent and impossible seeds of a wave. In the last wave, worlds without an episode
            repeat its last seed; their results are dropped.
        seeds: All seeds.
        max_steps: Control steps of an episode.
        film: Where the commands of every episode are kept until some are filmed, or None.
        stop_at_success: See `run_episodes`.
        on_wave: Called with the results of each wave, to save them; True if no further wave is needed.
        on_progress: Called with (control steps done, control steps in all), summed over episodes.

    Raises:
        SimulationError: There are no seeds, or one appears twice.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise SimulationError(
            expected="at least one seed, each once", got=f"{len(seeds)} seeds", fix="Drop the repeated ones."
        )
    results: list[EpisodeResult] = []
    for first in range(0, len(seeds), env.num_worlds):
        batch = list(seeds[first : first + env.num_worlds])
        idle = env.num_worlds - len(batch)
        padded = batch + batch[-1:] * idle
        wave = prepare(padded)
        impossible = [*wave.impossible[: len(batch)], *[IDLE] * idle]

        def report(step: int, steps: int, done: int = first, size: int = len(batch)) -> None:
            if on_progress is not None:
                on_progress(done * steps + size * step, len(seeds) * steps)

        done = run_episodes(
            env, controller, wave.make_agent, padded, max_steps=max_steps,
            impossible=impossible, stop_at_success=stop_at_success, on_progress=report,
        )  # fmt: skip
        if film is not None:
            film.keep(batch, done.commands)
        results += done.episodes[: len(batch)]
        if on_wave is not None and on_wave(done.episodes[: len(batch)]):
            break
    return tuple(results)


class EpisodeProgress:
    """Episodes that were finished before a rollout was, and the seconds they took.

    Args:
        path: The file that holds them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[list[EpisodeResult], float]:
        """Return finished episodes and seconds; nothing when there was no interruption.

        Raises:
            StoreError: The file is damaged.
        """
        if not self._path.exists():
            return [], 0.0
        fix = "Delete the file; the episodes are run again."
        with foreign_file("finished episodes", self._path, fix, error=StoreError):
            raw = read_json(self._path, sealed=True, error=StoreError, fix=fix)
            return [EpisodeResult(**row) for row in raw["episodes"]], float(raw["seconds"])

    def write(self, episodes: Sequence[EpisodeResult], seconds: float) -> None:
        """Replace the file."""
        rows = [asdict(episode) for episode in episodes]
        write_json(self._path, {"episodes": rows, "seconds": seconds}, seal=True)

    def remove(self) -> None:
        """Delete the file: the result of the rollout holds everything now."""
        self._path.unlink(missing_ok=True)
