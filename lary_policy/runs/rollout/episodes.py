"""The episodes of one cell, in this process or shared by several."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lary_policy.actions import ActionContract, require_stats
from lary_policy.data import PairTable
from lary_policy.data.simulated import EpisodeRecord, SimulatedSource, read_episodes
from lary_policy.encoders import EncoderShelf
from lary_policy.errors import DatasetError
from lary_policy.heads import build_head, load_head
from lary_policy.latents import LatentTable
from lary_policy.machine import intra_op_threads, kept_heap, process_count
from lary_policy.rollout import Crew, ExpertAgent, Film, HeadAgent, Wave, by_ranks, run_waves
from lary_policy.runs.context import RunContext, RunData
from lary_policy.runs.encode import encoder_of, load_goals
from lary_policy.runs.rollout.loops import Loop
from lary_policy.types import EpisodeResult

if TYPE_CHECKING:
    from lary_envs import Simulation

RANDOM_SEED = 987_654_321  # of the untrained head; any number that is no training seed


@dataclass(frozen=True, eq=False)
class LoopSetup:
    """What a process needs to run episodes of a cell, `worlds` at once."""

    context: RunContext
    loop: Loop
    film: Film | None
    threads: int
    worlds: int


class _Worlds:
    """The worlds of a cell, and its head."""

    def __init__(self, setup: LoopSetup) -> None:
        context, loop = setup.context, setup.loop
        self.setup, self._env = setup, simulated_source(loop.data).world(
            setup.worlds, render_device=context.device, num_threads=setup.threads,
            guard_folder=loop.cell(context).folder / "diverged",
        )  # fmt: skip
        self.close = self._env.close
        try:
            self._controller = self._env.controller()
            self._prepare = _preparation(context, loop, self._env, setup.threads)
        except BaseException:
            self.close()
            raise

    def run(self, seeds: Sequence[int], **told: Any) -> tuple[EpisodeResult, ...]:
        """Run episodes, see `run_waves`, which `told` is for."""
        c, env = self.setup.context.config, self._env
        with intra_op_threads(1):
            return run_waves(
                env, self._controller, self._prepare, seeds, max_steps=c.episode_steps(env.max_steps),
                film=self.setup.film, stop_at_success=c.stop_at_success, **told,
            )  # fmt: skip


# Of a process that shares episodes with others: what it runs now, and the encoders that it has loaded.
_open: dict[tuple[str, int], _Worlds] = {}
_shelves: dict[tuple[str, int, int | None], EncoderShelf] = {}


def _run_wave(setup: LoopSetup, seeds: Sequence[int]) -> tuple[EpisodeResult, ...]:
    """Run one wave in a process that may be asked for the next one of the same cell, or of another."""
    context = setup.context
    key = setup.loop.cell(context).key, setup.worlds
    if key not in _open:
        for other in _open.values():
            other.close()
        _open.clear()
        own = context.shelf
        context.shelf = _shelves.setdefault((own.device, own.seed, own.frame_px), own)
        _open[key] = _Worlds(setup)
    with kept_heap(context.device):
        return _open[key].run(seeds)


def run_shared(
    setup: LoopSetup,
    seeds: list[int],
    on_wave: Callable[[tuple[EpisodeResult, ...]], bool],
    update: Callable[[int, int], None],
    crew: Crew | None,
) -> None:
    """Run the episodes of seeds, in this process or shared with others, and hand over wave after wave."""
    # The waves are those of one process, whoever runs them: what is rounded together stays together.
    setup = replace(setup, worlds=min(setup.worlds, len(seeds)))
    if crew is None and process_count() == 1:
        with closing(_Worlds(setup)) as one:
            one.run(seeds, on_wave=on_wave, on_progress=update)
        return
    if crew is not None:  # encoders are loaded there
        context, shelf = setup.context, setup.context.shelf
        bare = replace(context, data=[], shelf=EncoderShelf(shelf.device, shelf.seed, shelf.frame_px))
        setup = replace(setup, context=bare)
    batches = list(itertools.batched(seeds, setup.worlds))
    with closing((by_ranks if crew is None else crew.each)(partial(_run_wave, setup), batches)) as waves:
        for number, wave in enumerate(waves, 1):
            update(number, len(batches))
            if on_wave(wave):
                break


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
    records = {record.seed: record for record in read_episodes(simulated_source(data).goals_root or Path())}
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


def simulated_source(data: RunData) -> SimulatedSource:
    """Return the source of a simulated task with goals.

    Raises:
        DatasetError: It is another one.
    """
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
