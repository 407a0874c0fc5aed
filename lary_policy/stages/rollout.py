"""Stage `rollout`: trained heads drive the robot; random head and scripted expert are floor and ceiling."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lary_policy.actions import ActionContract, require_stats
from lary_policy.console import progress
from lary_policy.data.simulated import EpisodeRecord, read_episodes
from lary_policy.errors import DatasetError
from lary_policy.heads import build_head, load_head
from lary_policy.latents import load_frames, of_frames
from lary_policy.machine import intra_op_threads
from lary_policy.rollout import ExpertAgent, Film, HeadAgent, Wave, run_waves
from lary_policy.scores import Score, success_estimates
from lary_policy.stages.cells import Cell
from lary_policy.stages.config import EncoderChoice, RolloutConfig
from lary_policy.stages.context import RunContext
from lary_policy.stages.data import TaskData, data_cells, seeds_of
from lary_policy.stages.episode_progress import EpisodeProgress
from lary_policy.stages.extract import SplitLatents, load_split
from lary_policy.stages.probe import ProbeJob, probe_cell
from lary_policy.types import EpisodeResult

if TYPE_CHECKING:
    from lary_envs import SimEnv

FILMED = 4
RANDOM_SEED = 987_654_321  # of the untrained head; any number that is no training seed


@dataclass(frozen=True)
class RolloutJob:
    """One cell of the closed-loop table.

    Attributes:
        data: Demonstrations of the task.
        rollout: Mode and target.
        encoder: Encoder of the head, or None for the scripted expert.
        random: Whether the head keeps random weights.
    """

    data: TaskData
    rollout: RolloutConfig
    encoder: EncoderChoice | None = None
    random: bool = False

    @property
    def label(self) -> str:
        """Readable name of the cell."""
        who = "expert" if self.encoder is None else self.encoder.name + ("-random" if self.random else "")
        return f"{self.data.task}-{who}-{self.rollout.mode}-{self.rollout.target}"


def rollout_cell(context: RunContext, job: RolloutJob) -> Cell:
    """Return the cell of a job."""
    upstream: list[str] = [cell.key for cell in data_cells(context, job.data.task)]
    if job.encoder is not None:
        upstream.append(probe_cell(context, _probe_job(context, job)).key)
    inputs = (job.rollout, job.random, context.config.episodes, context.config.stop_at_success, FILMED)
    return context.cell("rollout", job.label, upstream, *inputs, context.device)


def run_rollout(context: RunContext, job: RolloutJob) -> dict[str, Any]:
    """Run the episodes of one cell, or return the finished result.

    Each finished wave is saved; an interrupted run continues after it.

    Returns:
        Scores, every episode, the failures by name and the video's path relative to the cache.
    """
    cell = rollout_cell(context, job)
    if cell.done:
        return cell.result()
    started = time.perf_counter()
    head, fingerprint = _head_label(context, job)
    seeds = seeds_of("rollout", context.config.episodes)
    film = Film(cell.folder / "episodes.mp4", seeds[:FILMED])
    progress_file = EpisodeProgress(cell.folder)
    episodes, spent = progress_file.read()
    done = {e.seed for e in episodes}
    todo = [seed for seed in seeds if seed not in done or seed in film.missing()]
    if todo:

        def save(wave: tuple[EpisodeResult, ...]) -> None:
            episodes.extend(e for e in wave if e.seed not in done)
            progress_file.write(episodes, spent + time.perf_counter() - started)

        with progress(f"rollout {job.label}") as update:
            _run(context, job, todo, film, save, update)
    film.write()
    seconds = spent + time.perf_counter() - started
    result = cell.finish(
        {
            "task": job.data.task,
            "encoder": job.encoder.name if job.encoder else "-",
            "head": head,
            "mode": job.rollout.mode,
            "target": job.rollout.target,
            "scores": [s.to_dict() for s in _scores(context, job, episodes, head, fingerprint, seconds)],
            "episodes": [asdict(e) for e in episodes],
            "video": str(film.path.relative_to(context.cache)),
            "seconds": seconds,
        }
    )
    progress_file.remove()
    return result


def _run(
    context: RunContext,
    job: RolloutJob,
    seeds: list[int],
    film: Film,
    on_wave: Callable[[tuple[EpisodeResult, ...]], None],
    update: Callable[[int, int], None],
) -> None:
    from lary_envs import EndEffectorController, SimEnv

    c = context.config
    worlds = min(c.num_worlds, len(seeds))
    folder = rollout_cell(context, job).folder / "diverged"
    env = SimEnv(
        job.data.task, worlds, cameras=c.cameras, image_px=c.image_px, render_device=context.device,
        guard_folder=folder, looks=c.looks, randomisation=c.rollout_level,
    )  # fmt: skip
    controller = EndEffectorController(worlds, embodiment=env.task.embodiment, device=str(env.device))
    try:
        prepare = _preparation(context, job, env)
        with intra_op_threads(1):
            run_waves(
                env, controller, prepare, seeds, max_steps=env.task.max_steps, film=film,
                stop_at_success=c.stop_at_success, on_wave=on_wave, on_progress=update,
            )  # fmt: skip
    finally:
        env.close()


def _preparation(context: RunContext, job: RolloutJob, env: SimEnv) -> Callable[[Sequence[int]], Wave]:
    """Load the head once and return how to make the agent of each wave."""
    if job.encoder is None:
        from lary_envs import make_expert

        return lambda seeds: Wave(lambda: ExpertAgent(make_expert(env.task.name, env)), [None] * len(seeds))
    choice, embodiment = job.encoder, context.embodiment_of(job.data.task)
    encoder = context.encoder(choice)
    folder = probe_cell(context, _probe_job(context, job)).folder
    head, meta = load_head(
        folder, context.device, fingerprint=encoder.fingerprint, embodiment=embodiment.name
    )
    if meta.contract is None:
        raise DatasetError(
            expected=f"an action head in {folder}", got="a class head", fix="Roll out a pair or policy probe."
        )
    of_env = replace(ActionContract.of(embodiment, job.rollout.target), control_hz=env.task.control_hz)
    meta.contract.require(of_env)
    stats = require_stats(meta.stats, embodiment, "action statistics")
    if job.random:
        head = build_head(meta, seed=RANDOM_SEED).to(context.device)

    shown = _shown(context, job.data, choice) if job.rollout.mode == "subgoal" else None

    def prepare(seeds: Sequence[int]) -> Wave:
        goals, lengths = None, None
        impossible: list[str | None] = [None] * len(seeds)
        if shown is not None:
            goals, lengths, impossible = _goals(context, job.data, shown, seeds)
            goals, lengths = goals.to(env.device), lengths.to(env.device)
        agent = HeadAgent(
            encoder, head, embodiment, stats, target=meta.target, proprio_stats=meta.proprio_stats,
            goals=goals, goal_lengths=lengths, threads=context.cores,
        )  # fmt: skip
        return Wave(lambda: agent, impossible)

    return prepare


def _shown(context: RunContext, data: TaskData, choice: EncoderChoice) -> SplitLatents:
    """Return what the demonstrations to follow show: latents, or frames for encoders that compare frames."""
    if of_frames(context.encoder(choice)):
        return load_split(context, data, choice, "rollout")
    pairs = data.pairs(context, "rollout")
    return SplitLatents(pairs, load_frames(pairs))


def _goals(
    context: RunContext, data: TaskData, split: SplitLatents, seeds: Sequence[int]
) -> tuple[Tensor, Tensor, list[str | None]]:
    """Return what the demonstrations show `[w j c ...]`, their lengths `[w]`, and why a seed cannot be run.

    A seed has `no_demonstration`, or a `damaged_demonstration` when one of its frames was set aside: without
    it every later goal would be a chunk early.
    """
    records = {record.seed: record for record in read_episodes(data.goals_root)}
    rows_of: dict[int, list[int]] = {}
    episodes = split.pairs.select(split.table.kept).episodes().tolist()
    for row, episode in enumerate(episodes):
        rows_of.setdefault(episode, []).append(row)
    chains: list[Tensor] = []
    missing: list[str | None] = []
    for seed in seeds:
        record = records.get(seed)
        rows = rows_of.get(record.episode, []) if record is not None else []
        missing.append(_reason(record, len(rows), context.config.stride))
        index = split.table.index[rows or [0]]  # [m 2 c]
        chains.append(torch.cat([index[:, 0], index[-1:, 1]]))  # [m+1 c]: all sources, then the last target
    lengths = torch.tensor([len(chain) for chain in chains])
    longest = int(lengths.max())
    padded = torch.stack([torch.cat([c, c[-1:].expand(longest - len(c), -1)]) for c in chains])
    return split.table.bank[padded], lengths, missing


def _reason(record: EpisodeRecord | None, rows: int, stride: int) -> str | None:
    if record is None or not record.success:
        return "no_demonstration"
    return None if rows == record.steps // stride else "damaged_demonstration"


def _probe_job(context: RunContext, job: RolloutJob) -> ProbeJob:
    if job.encoder is None:
        raise DatasetError(expected="an encoder", got="the scripted expert", fix="Experts have no probe.")
    return ProbeJob(job.data, job.encoder, context.config.probe_for(job.rollout))


def _head_label(context: RunContext, job: RolloutJob) -> tuple[str, str]:
    if job.encoder is None:
        return "expert", "-"
    result = probe_cell(context, _probe_job(context, job)).result()
    fingerprint = context.encoder(job.encoder).fingerprint
    return ("random" if job.random else str(result["head"])), fingerprint


def _scores(
    context: RunContext,
    job: RolloutJob,
    episodes: list[EpisodeResult],
    head: str,
    fingerprint: str,
    seconds: float,
) -> list[Score]:
    return success_scores(
        episodes,
        encoder=job.encoder.name if job.encoder else "-",
        head=head,
        embodiment=context.embodiment_of(job.data.task).name,
        task=job.data.task,
        mode=job.rollout.mode,
        target=job.rollout.target,
        split=split_label(context.config.rollout_level, episodes),
        seed=context.config.seed,
        protocol=context.config.protocol,
        fingerprint=fingerprint,
        seconds=seconds,
    )


def success_scores(episodes: Sequence[EpisodeResult], **facts: Any) -> list[Score]:
    """Return the rates of success ever and at the end, with Wilson intervals; `facts` are `Score`'s rest."""
    found = success_estimates(episodes)
    return [
        Score.of(one, stage="rollout", metric=metric, n=len(episodes), **facts)
        for metric, one in found.items()
    ]


def split_label(level: str, episodes: Sequence[EpisodeResult]) -> str:
    """Return what the split of a rollout is called: its seeds and, if any, the level of randomisation."""
    seeds = f"seeds {episodes[0].seed}-{episodes[-1].seed}"
    return seeds if level == "none" else f"{seeds}, {level}"
