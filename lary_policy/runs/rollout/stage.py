"""Stage `rollout`: trained heads drive the robot; random head and scripted expert are floor and ceiling."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

from lary_policy.console import busy, kept, progress
from lary_policy.data.simulated import GOALS, seeds_of
from lary_policy.heads.training import agree
from lary_policy.machine import as_made, is_main_process, kept_heap, process_count
from lary_policy.rollout import FILM_PX, Crew, EpisodeProgress, Film, film_speed
from lary_policy.runs.cells import UNFINISHED, Cell
from lary_policy.runs.config import RunConfig
from lary_policy.runs.context import RunContext
from lary_policy.runs.encode import encoder_of
from lary_policy.runs.rollout.episodes import LoopSetup, run_shared, simulated_source
from lary_policy.runs.rollout.loops import Loop
from lary_policy.scores import Score, is_decided, paired_evidence, success_estimates
from lary_policy.types import EpisodeResult


def run_rollouts(context: RunContext, loops: Sequence[Loop]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Run the episodes of cells, or take the finished results; yield (place, result) as they come.

    On a CPU they run side by side, each in a thread of its own: physics, rendering and encoding of one wait
    for each other, and many steps of each are too small to be shared among the cores. Processes (of
    `workers`, or of a launcher) share all waves of episodes.
    """
    workers = context.config.workers
    again: set[int] = set()
    first: dict[str, int] = {}  # the scripted expert sees no goals: its cell is the same in every mode
    for place, cell in enumerate(loop.cell(context) for loop in loops):
        if not cell.done and first.setdefault(cell.key, place) != place:
            again.add(place)
    for place in again:
        kept(f"rollout {loops[place].label}")
    todo = list(first.values())
    alone = process_count() > 1 or context.device != "cpu"
    threads, each = 1 if alone else min(context.cores, max(1, len(todo))), 0
    crew = None
    if workers > 1:  # threads wait for them: while one has its film, another one has waves
        threads, each = min(2 * workers, max(1, len(todo))), max(1, context.cores // workers)
        crew = Crew(workers, context.device, [run_shared.__module__])
    each = each or max(1, context.cores // threads)
    with kept_heap(context.device), crew or nullcontext():
        if threads > 1:
            # Whoever starts the longest last waits for it.
            todo.sort(key=lambda place: -_cost(loops[place], context.config))
            for view in dict.fromkeys(job.view for place in todo if (job := loops[place].job)):
                context.shelf.load(view)  # threads would load it each
            calls = [partial(run_rollout, context, loops[place], each, crew) for place in todo]
            with busy("rollouts"), closing(as_made(calls, threads)) as made:
                for number, result in made:
                    yield todo[number], result
        for place, loop in enumerate(loops):
            if threads == 1 or place not in first.values():
                yield place, run_rollout(context, loop, each, crew)


def _cost(loop: Loop, config: RunConfig) -> float:
    """Return what the episodes of a cell take in some unit: physics and encoding."""
    return loop.steps(config) * (2.0 + (0.0 if loop.job is None else loop.job.view.spec.gflops_per_frame))


def run_rollout(
    context: RunContext, loop: Loop, threads: int | None = None, crew: Crew | None = None
) -> dict[str, Any]:
    """Run the episodes of one cell, or return the finished result.

    Each finished wave is saved; an interrupted run continues after it.

    Args:
        context: The run.
        loop: Which cell.
        threads: CPU threads of physics, renderer and encoder; all cores by default.
        crew: Processes that share the episodes; None for this one, or all of a launcher.

    Returns:
        Scores, every episode, the failures by name and the video's path relative to the cache.
    """
    cell = loop.cell(context)
    threads = threads or context.cores
    result = cell.compute_together(lambda: _rollout(context, loop, cell, threads, crew))
    _progress_of(cell).remove()
    asked = {"mode": loop.rollout.mode, "target": loop.rollout.target}
    scores = [{**score, **asked} for score in result["scores"]]
    return {**result, **asked, "scores": scores, "commit": cell.commit(context.starts)}


def _progress_of(cell: Cell) -> EpisodeProgress:
    return EpisodeProgress(cell.folder / UNFINISHED[1])


def _rollout(context: RunContext, loop: Loop, cell: Cell, threads: int, crew: Crew | None) -> dict[str, Any]:
    started = time.perf_counter()
    head, fingerprint = _head_label(context, loop)
    seeds = seeds_of(GOALS, context.config.episodes)
    film = Film(cell.folder / "episodes.mp4") if context.config.films else None
    episodes, spent = agree(_progress_of(cell).read())
    done = {e.seed for e in episodes}
    told = _evidence(context, loop, threads, crew)
    over = told is not None and is_decided(told(episodes))
    lost = agree(film.missing([seed for seed in seeds if seed in done])) if film else ()
    todo = [seed for seed in seeds if seed in lost or (seed not in done and not over)]
    if todo:

        def save(wave: tuple[EpisodeResult, ...]) -> bool:
            episodes.extend(e for e in wave if e.seed not in done)
            if is_main_process():
                _progress_of(cell).write(episodes, spent + time.perf_counter() - started)
            more = any(e.seed not in done for e in wave)
            return more and told is not None and is_decided(told(episodes))

        with progress(f"rollout {loop.label}") as update:
            setup = LoopSetup(context, loop, film, threads, context.config.num_worlds)
            run_shared(setup, todo, save, update, crew)
    if not is_main_process():
        return {}  # the first process says what came of it
    filmed = () if film is None else _shoot(context, loop, film, episodes, threads, crew)
    seconds = spent + time.perf_counter() - started
    question = {"differs_from": context.views(loop.data.protocol)[0].label, "episodes": len(episodes)}
    about = {
        "task": loop.data.name, "encoder": loop.job.view.label if loop.job else "-", "head": head,
        "mode": loop.rollout.mode, "target": loop.rollout.target,
        "seed": loop.job.seed if loop.job else 0, "protocol": loop.data.protocol,
    }  # fmt: skip
    scores = success_scores(
        episodes, embodiment=loop.data.spec.embodiment or "-", fingerprint=fingerprint, seconds=seconds,
        split=split_label(context.config.rollout_level, seeds), **about,
    )  # fmt: skip
    return {
        **about,
        "scores": [score.to_dict() for score in scores],
        "episodes": [asdict(e) for e in episodes],
        "filmed": filmed,
        "video": str(film.path.relative_to(context.cache)) if film and filmed else "",
        "film_speed": film_speed(loop.data.embodiment.control_hz if loop.data.embodiment else 0.0),
        **({} if told is None else {"question": question | {"evidence": told(episodes)}}),
        "max_episode_steps": loop.steps(context.config),
        "seconds": seconds,
    }


def _shoot(
    context: RunContext, loop: Loop, film: Film, episodes: list[EpisodeResult], threads: int,
    crew: Crew | None,
) -> tuple[int, ...]:  # fmt: skip
    """Film a few episodes and return their seeds."""
    stage = partial(
        simulated_source(loop.data).world, overview=True, image_px=FILM_PX, render_device=context.device,
        num_threads=threads,
    )  # fmt: skip
    with progress(f"film {loop.label}", step=False) as update:
        if crew is None:
            return film.shoot(episodes, stage, update)
        return next(crew.each(partial(film.shoot, open_world=stage), [episodes]))


def _evidence(
    context: RunContext, loop: Loop, threads: int, crew: Crew | None
) -> Callable[[Sequence[EpisodeResult]], float] | None:
    """Return what tells of episodes how clearly success differs from the first encoder's; None if unasked."""
    against = loop.against(context)
    if against is None:
        return None
    theirs = {e["seed"]: bool(e["success"]) for e in run_rollout(context, against, threads, crew)["episodes"]}
    return lambda episodes: paired_evidence({e.seed: e.success for e in episodes}, theirs)


def _head_label(context: RunContext, loop: Loop) -> tuple[str, str]:
    if loop.job is None:
        return "expert", "-"
    fingerprint = encoder_of(context, loop.data, loop.job.view).fingerprint
    return ("random" if loop.random else str(loop.job.cell(context).result()["head"])), fingerprint


def success_scores(episodes: Sequence[EpisodeResult], **facts: Any) -> list[Score]:
    """Return success ever and at the end, and the progress, with intervals; `facts` are `Score`'s rest."""
    found = success_estimates(episodes)
    return [
        Score.of(one, stage="rollout", metric=metric, n=len(episodes), **facts)
        for metric, one in found.items()
    ]


def split_label(level: str, seeds: Sequence[int]) -> str:
    """Return what the split of a rollout is called: its seeds and, if any, the level of randomisation."""
    named = f"seeds {seeds[0]}-{seeds[-1]}"
    return named if level == "none" else f"{named}, {level}"
