"""Stage `rollout`: trained heads drive the robot; random head and scripted expert are floor and ceiling."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lary_policy.actions import ActionContract, require_stats
from lary_policy.console import busy, kept, progress
from lary_policy.data import PairTable
from lary_policy.data.simulated import GOALS, EpisodeRecord, SimulatedSource, read_episodes, seeds_of
from lary_policy.errors import DatasetError, StoreError
from lary_policy.heads import build_head, load_head
from lary_policy.latents import LatentTable
from lary_policy.machine import as_made, intra_op_threads, kept_heap, process_count
from lary_policy.paths import foreign_file, read_json
from lary_policy.rollout import FILM_PX, ExpertAgent, Film, HeadAgent, Wave, film_speed, run_waves
from lary_policy.runs.cells import UNFINISHED, Cell, write_result
from lary_policy.runs.config import RolloutConfig, RunConfig
from lary_policy.runs.context import RunContext, RunData
from lary_policy.runs.encode import encoder_of, load_goals
from lary_policy.runs.probe import Job, jobs_of
from lary_policy.scores import Score, is_decided, paired_evidence, success_estimates
from lary_policy.types import EpisodeResult

if TYPE_CHECKING:
    from lary_envs import Simulation

_KEYED = 4  # once the number of filmed episodes; still in keys, so that finished cells stay what they are
RANDOM_SEED = 987_654_321  # of the untrained head; any number that is no training seed


@dataclass(frozen=True, eq=False)
class Loop:
    """One cell of the closed-loop table.

    Attributes:
        data: Demonstrations of the task.
        rollout: Mode and target.
        job: The trained head, or None for the scripted expert.
        random: Whether the head keeps random weights.
    """

    data: RunData
    rollout: RolloutConfig
    job: Job | None = None
    random: bool = False

    @property
    def label(self) -> str:
        """Readable name of the cell."""
        if self.job is None:
            return f"{self.data.label}-expert"
        seed = f"-seed{self.job.seed}" if self.job.seed else ""
        who = f"{self.job.view.label}{'-random' if self.random else ''}-{self.rollout.mode}"
        return f"{self.data.label}-{who}-{self.rollout.target}-{self.job.probe.head_label}{seed}"

    def cell(self, context: RunContext) -> Cell:
        """Return the cell of the loop; that of the expert, who sees no goals, is the same in every mode."""
        c = context.config
        head = () if self.job is None else (self.job.cell(context).key, self.rollout, self.random)
        # Each task has its own world, whose looks and size of frames the goals' content tells.
        cameras = context.cameras(self.data.task or "")
        world = (self.data.task, cameras, c.image_px, c.stride, c.looks, c.rollout_level)
        how: tuple[Any, ...] = (c.episodes, c.stop_at_success, c.batch_invariant, _KEYED)
        if (steps := self.steps(c)) < self.steps():
            how += ("max_episode_steps", steps)
        if (against := self.against(context)) is not None:
            how += ("until decided", against.cell(context).key)
        inputs = (self.data.goals_digest, world, *head, *how)
        return context.cell("rollout", self.label, *inputs)

    def steps(self, config: RunConfig | None = None) -> int:
        """Control steps after which its episodes end; those of the task without the configuration."""
        from lary_envs.tasks import task_spec

        own = task_spec(self.data.task).max_steps if self.data.task else 0
        return own if config is None else config.episode_steps(own)

    def against(self, context: RunContext) -> Loop | None:
        """Return the first encoder's loop, whose success decides how many episodes this one runs, if any."""
        first = context.views(self.data.protocol)[0]
        alone = self.job is None or (self.job.view == first and not self.random)
        if alone or self.job is None or not context.config.stop_when_decided:
            return None
        return replace(self, job=replace(self.job, view=first), random=False)


def loops_of(context: RunContext, data: RunData) -> list[Loop]:
    """Return the closed loops of a task: expert, then every trained head, then one random head a mode.

    The random head, a floor, stands behind the encoder that takes least time.
    """
    found: list[Loop] = []
    for rollout in context.config.loops:
        jobs = [
            job
            for view in context.views(data.protocol)
            for job in jobs_of(context, data, view)
            if rollout.uses(job.probe)
        ]
        found.append(Loop(data, rollout))
        found += [Loop(data, rollout, job) for job in jobs]
        cheapest = min(jobs, key=lambda job: job.view.spec.gflops_per_frame, default=None)
        found += [Loop(data, rollout, cheapest, random=True)] if cheapest else []
    return found


def run_rollouts(context: RunContext, loops: Sequence[Loop]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Run the episodes of cells, or take the finished results; yield (place, result) as they come.

    On a CPU they run side by side, each in a thread of its own: physics, rendering and encoding of one wait
    for each other, and many steps of each are too small to be shared among the cores.
    """
    again: set[int] = set()
    first: dict[str, int] = {}  # the scripted expert sees no goals: its cell is the same in every mode
    for place, cell in enumerate(loop.cell(context) for loop in loops):
        if not cell.done and first.setdefault(cell.key, place) != place:
            again.add(place)
    for place in again:
        kept(f"rollout {loops[place].label}")
    todo = list(first.values())
    alone = process_count() > 1 or context.device != "cpu"
    threads = 1 if alone else min(context.cores, max(1, len(todo)))
    with kept_heap(context.device):
        if threads > 1:
            # Whoever starts the longest last waits for it.
            todo.sort(key=lambda place: -_cost(loops[place], context.config))
            for view in dict.fromkeys(job.view for place in todo if (job := loops[place].job)):
                context.shelf.load(view)  # threads would load it each
            yield from _side_by_side(context, loops, todo, threads)
        for place, loop in enumerate(loops):
            if threads == 1 or place not in first.values():
                yield place, run_rollout(context, loop)


def _side_by_side(
    context: RunContext, loops: Sequence[Loop], todo: Sequence[int], threads: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    calls = [partial(run_rollout, context, loops[place], context.cores // threads) for place in todo]
    with busy("rollouts"), closing(as_made(calls, threads)) as made:
        for number, result in made:
            yield todo[number], result


def _cost(loop: Loop, config: RunConfig) -> float:
    """Return what the episodes of a cell take in some unit: physics and encoding."""
    return loop.steps(config) * (2.0 + (0.0 if loop.job is None else loop.job.view.spec.gflops_per_frame))


def run_rollout(context: RunContext, loop: Loop, threads: int | None = None) -> dict[str, Any]:
    """Run the episodes of one cell, or return the finished result.

    Each finished wave is saved; an interrupted run continues after it.

    Args:
        context: The run.
        loop: Which cell.
        threads: CPU threads of physics, renderer and encoder; all cores by default.

    Returns:
        Scores, every episode, the failures by name and the video's path relative to the cache.
    """
    cell = loop.cell(context)
    result = cell.compute(lambda: _rollout(context, loop, cell, threads or context.cores))
    EpisodeProgress(cell.folder).remove()
    asked = {"mode": loop.rollout.mode, "target": loop.rollout.target}
    scores = [{**score, **asked} for score in result["scores"]]
    return {**result, **asked, "scores": scores, "commit": cell.commit(context.starts)}


def _rollout(context: RunContext, loop: Loop, cell: Cell, threads: int) -> dict[str, Any]:
    started = time.perf_counter()
    head, fingerprint = _head_label(context, loop)
    seeds = seeds_of(GOALS, context.config.episodes)
    film = Film(cell.folder / "episodes.mp4") if context.config.films else None
    progress_file = EpisodeProgress(cell.folder)
    episodes, spent = progress_file.read()
    done = {e.seed for e in episodes}
    told = _evidence(context, loop, threads)
    over = told is not None and is_decided(told(episodes))
    lost = film.missing([seed for seed in seeds if seed in done]) if film else ()
    todo = [seed for seed in seeds if seed in lost or (seed not in done and not over)]
    if todo:

        def save(wave: tuple[EpisodeResult, ...]) -> bool:
            episodes.extend(e for e in wave if e.seed not in done)
            progress_file.write(episodes, spent + time.perf_counter() - started)
            more = any(e.seed not in done for e in wave)
            return more and told is not None and is_decided(told(episodes))

        with progress(f"rollout {loop.label}") as update:
            _run(context, loop, todo, film, save, update, threads)
    stage = partial(
        _simulated(loop.data).world, overview=True, image_px=FILM_PX, render_device=context.device,
        num_threads=threads,
    )  # fmt: skip
    with progress(f"film {loop.label}", step=False) if film else nullcontext() as shooting:
        filmed = film.shoot(episodes, stage, shooting) if film else ()
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


def _run(
    context: RunContext,
    loop: Loop,
    seeds: list[int],
    film: Film | None,
    on_wave: Callable[[tuple[EpisodeResult, ...]], bool],
    update: Callable[[int, int], None],
    threads: int,
) -> None:
    c = context.config
    worlds = min(c.num_worlds, len(seeds))
    folder = loop.cell(context).folder / "diverged"
    env = _simulated(loop.data).world(
        worlds, render_device=context.device, guard_folder=folder, num_threads=threads
    )
    controller = env.controller()
    try:
        prepare = _preparation(context, loop, env, threads)
        with intra_op_threads(1):
            run_waves(
                env, controller, prepare, seeds, max_steps=c.episode_steps(env.max_steps), film=film,
                stop_at_success=c.stop_at_success, on_wave=on_wave, on_progress=update,
            )  # fmt: skip
    finally:
        env.close()


def _evidence(
    context: RunContext, loop: Loop, threads: int
) -> Callable[[Sequence[EpisodeResult]], float] | None:
    """Return what tells of episodes how clearly success differs from the first encoder's; None if unasked."""
    against = loop.against(context)
    if against is None:
        return None
    theirs = {e["seed"]: bool(e["success"]) for e in run_rollout(context, against, threads)["episodes"]}
    return lambda episodes: paired_evidence({e.seed: e.success for e in episodes}, theirs)


def _preparation(
    context: RunContext, loop: Loop, env: Simulation, threads: int
) -> Callable[[Sequence[int]], Wave]:
    """Load the head once and return how to make the agent of each wave."""
    if loop.job is None:
        return lambda seeds: Wave(lambda: ExpertAgent(env.expert()), [None] * len(seeds))
    embodiment, view = loop.data.embodiment, loop.job.view
    encoder = encoder_of(context, loop.data, view)
    folder = loop.job.cell(context).folder
    name = embodiment.name if embodiment else None
    head, meta = load_head(folder, context.device, fingerprint=encoder.fingerprint, embodiment=name)
    if meta.contract is None or embodiment is None:
        raise DatasetError(
            expected=f"an action head in {folder}", got="a class head", fix="Roll out a pair or policy probe."
        )
    of_env = replace(ActionContract.of(embodiment, loop.rollout.target), control_hz=env.task.control_hz)
    meta.contract.require(of_env)
    stats = require_stats(meta.stats, embodiment, "action statistics")
    if loop.random:
        head = build_head(meta, seed=RANDOM_SEED).to(context.device)
    shown = load_goals(context, loop.data, view) if loop.rollout.mode == "subgoal" else None

    def prepare(seeds: Sequence[int]) -> Wave:
        goals, lengths = None, None
        impossible: list[str | None] = [None] * len(seeds)
        if shown is not None:
            goals, lengths, impossible = _goals(context, loop.data, *shown, seeds)
            goals, lengths = goals.to(env.device), lengths.to(env.device)
        agent = HeadAgent(
            encoder, head, embodiment, stats, target=meta.target, proprio_stats=meta.proprio_stats,
            goals=goals, goal_lengths=lengths, threads=threads, alone=context.config.batch_invariant,
        )  # fmt: skip
        return Wave(lambda: agent, impossible)

    return prepare


def _goals(
    context: RunContext, data: RunData, pairs: PairTable, shown: LatentTable, seeds: Sequence[int]
) -> tuple[Tensor, Tensor, list[str | None]]:
    """Return what the demonstrations show `[w j c ...]`, their lengths `[w]`, and why a seed cannot be run.

    A seed has `no_demonstration`, or a `damaged_demonstration` when one of its frames was set aside: without
    it every later goal would be a chunk early.
    """
    records = {record.seed: record for record in read_episodes(_simulated(data).goals_root or Path())}
    rows_of: dict[int, list[int]] = {}
    for row, episode in enumerate(pairs.select(shown.kept).episodes().tolist()):
        rows_of.setdefault(episode, []).append(row)
    chains: list[Tensor] = []
    missing: list[str | None] = []
    for seed in seeds:
        record = records.get(seed)
        rows = rows_of.get(record.episode, []) if record is not None else []
        missing.append(_reason(record, len(rows), context.config.stride))
        index = shown.index[rows or [0]]  # [m 2 c]
        chains.append(torch.cat([index[:, 0], index[-1:, 1]]))  # [m+1 c]: all sources, then the last target
    lengths = torch.tensor([len(chain) for chain in chains])
    longest = int(lengths.max())
    padded = torch.stack([torch.cat([c, c[-1:].expand(longest - len(c), -1)]) for c in chains])
    return shown.bank[padded], lengths, missing


def _simulated(data: RunData) -> SimulatedSource:
    if not isinstance(data.source, SimulatedSource) or data.source.goals_root is None:
        raise DatasetError(
            expected="a simulated task with demonstrations to follow",
            got=data.name,
            fix="Run `lary suite` or `lary data` with the same settings first.",
        )
    return data.source


def _reason(record: EpisodeRecord | None, rows: int, stride: int) -> str | None:
    if record is None or not record.success:
        return "no_demonstration"
    return None if rows == record.steps // stride else "damaged_demonstration"


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


class EpisodeProgress:
    """Episodes that were finished before a rollout cell was, and the seconds they took.

    Args:
        folder: Folder of the cell.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / UNFINISHED[1]

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
        write_result(self._path, {"episodes": [asdict(e) for e in episodes], "seconds": seconds})

    def remove(self) -> None:
        """Delete the file: the result of the cell holds everything now."""
        self._path.unlink(missing_ok=True)
