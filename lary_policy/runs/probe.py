"""Stage `probe`: heads on stored latents, selected on one split and reported on the others; their grid."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from lary_policy.console import busy, progress
from lary_policy.data import ClipTable, PairTable
from lary_policy.data.simulated import DENSE
from lary_policy.encoders import EncoderView
from lary_policy.heads import HEAD_FORMAT, Head, HeadMeta
from lary_policy.heads.training import LatentBatches, TrainResult, fit, open_logger
from lary_policy.latents import LatentTable, StoredLatents, stored_latent
from lary_policy.machine import as_made, give_back_heap, intra_op_threads, leave_if_asked, process_count
from lary_policy.runs.cells import UNFINISHED, Cell, plain
from lary_policy.runs.context import RunContext, RunData
from lary_policy.runs.encode import Splits, encoder_of
from lary_policy.runs.questions import Probe, find_question
from lary_policy.scores import ActionEvaluation, ClassEvaluation, Estimate, SampleScores, Score
from lary_policy.types import Quarantined

PROGRESS_FILE = UNFINISHED[0]


@dataclass(frozen=True, eq=False)
class Job:
    """One head to train.

    Attributes:
        data: What it learns from.
        view: Whose latents it reads.
        probe: Question and head.
        seed: Added to that of the head's configuration.
    """

    data: RunData
    view: EncoderView
    probe: Probe
    seed: int

    @property
    def label(self) -> str:
        """Readable name of the cell."""
        seed = f"-seed{self.seed}" if self.seed else ""
        return f"{self.data.label}-{self.view.label}-{self.probe.label}{seed}"

    def cell(self, context: RunContext) -> Cell:
        """Return the cell of the trained head."""
        p = self.probe
        # What changes the numbers of one kind of probe must not make cells of the other kind be run again.
        own = find_question(p.mode).depends(context, self.data)
        asked = {name: value for name, value in plain(p).items() if p.dense or name != "windows"}
        if p.dense:
            asked["dense"] = self.data.dense_digest
        key = (
            context.latents_key(self.data, self.view),
            asked,
            self.data.protocol,
            self.seed,
            own,
            HEAD_FORMAT,
        )
        return context.cell("probe", self.label, *key)

    def table(self, split: str) -> PairTable | ClipTable:
        """Return the rows of a split that this head sees."""
        if self.probe.dense and split == self.data.spec.train_split and self.data.dense_table is not None:
            return self.data.dense_table
        return self.data.table(split)

    def seen(self, splits: Splits) -> Splits:
        """Return the latents that this head sees of those of all heads."""
        found = {split: table for split, table in splits.items() if split != DENSE}
        if self.probe.dense and DENSE in splits:
            found[self.data.spec.train_split] = splits[DENSE]
        return found


def pairs_of(context: RunContext) -> Iterator[tuple[RunData, EncoderView]]:
    """Yield each opened data with each encoder view."""
    for data in context.data:
        for view in context.views(data.protocol):
            yield data, view


def jobs_of(context: RunContext, data: RunData, view: EncoderView) -> list[Job]:
    """Return the heads that a run trains on one view's latents of some data, as far as questions fit."""
    latent = view.spec.latent
    probes = [p for p in data.probes(context.config) if find_question(p.mode).fits_latent(latent)]
    grid = itertools.product(probes, context.config.every_seed)
    return [Job(data, view, probe, seed) for probe, seed in grid]


@dataclass(frozen=True)
class Probing:
    """A job while it is worked on.

    Attributes:
        context: The run.
        job: What to train.
        splits: Latents of its splits.
        cell: Where the result goes.
        threads: Intra-op threads of the training.
    """

    context: RunContext
    job: Job
    splits: Splits
    cell: Cell
    threads: int

    def samples(self, split: str) -> LatentTable:
        """Return the latents of a split."""
        return self.splits[split]

    def rows(self, split: str) -> PairTable:
        """Return the rows of a split of pairs that have latents.

        Raises:
            DatasetError: They are clips.
        """
        table = self.job.table(split)
        if not isinstance(table, PairTable):
            raise self.job.data.spec.wrong_kind("pairs")
        return table.select(self.samples(split).kept)

    def aside(self) -> list[Quarantined]:
        """Return the rows without latents."""
        return [q for table in self.splits.values() for q in table.quarantined]

    def meta(self, sample: LatentBatches, **fields: Any) -> HeadMeta:
        """Describe the head; `fields` are what its kind of question adds."""
        job, spec = self.job, self.job.data.spec
        encoder = encoder_of(self.context, job.data, job.view)
        given: dict[str, Any] = {
            "model": job.probe.head.model,
            "encoder": job.view.name,
            "fingerprint": encoder.fingerprint,
            "latent_shape": sample.latent_shape,
            "cameras": spec.cameras,
            "embodiment": spec.embodiment or "-",
            "task": job.data.name,
            "mode": "atomic" if job.probe.about == "classes" else find_question(job.probe.mode).asks,
            "target": job.probe.target,
            "token_grid": stored_latent(encoder).grid,
            "seed": job.seed,
        }
        return HeadMeta(**{**given, **fields})

    def train(self, meta: HeadMeta, batches: Mapping[str, LatentBatches]) -> tuple[Head, TrainResult]:
        """Train the head; an interrupted training goes on."""
        spec, config = self.job.data.spec, self.job.probe.head.train
        config = replace(config, device=self.context.device, seed=config.seed + self.job.seed)
        folder = self.cell.folder
        folder.mkdir(parents=True, exist_ok=True)
        names = self.context.config.loggers
        loggers = [open_logger(name, folder, {"cell": self.cell.label}) for name in names]
        try:
            with progress(f"probe {self.job.label}") as update, intra_op_threads(self.threads):
                return fit(
                    meta,
                    batches[spec.train_split],
                    batches[spec.select_split],
                    config,
                    lambda record: update(record.epoch, record.epochs),
                    checkpoint=folder / PROGRESS_FILE,
                    loggers=loggers,
                )
        finally:
            for logger in loggers:
                logger.close()

    def scores(
        self, meta: HeadMeta, split: str, estimates: Mapping[str, Estimate], count: int, seconds: float
    ) -> list[dict[str, Any]]:
        """Return the scores of one split as plain data."""
        job = self.job
        return [
            Score.of(
                estimate,
                stage="probe",
                encoder=job.view.label,
                head=meta.label + job.probe.head_label.removeprefix(job.probe.head.label),
                embodiment=meta.embodiment,
                task=job.data.name,
                mode=job.probe.mode,
                target=job.probe.target,
                metric=metric,
                n=count,
                split=split,
                seed=job.seed,
                protocol=job.data.protocol,
                fingerprint=meta.fingerprint,
                seconds=seconds,
            ).to_dict()
            for metric, estimate in estimates.items()
        ]

    def facts(self, aside: list[Quarantined]) -> dict[str, Any]:
        """Return what the results of all questions hold, those without a head too."""
        job = self.job
        return {
            "task": job.data.name,
            "protocol": job.data.protocol,
            "encoder": job.view.label,
            "reference_key": job.view.spec.reference_key,
            "mode": job.probe.mode,
            "target": job.probe.target,
            "head": job.probe.head_label,
            "seed": job.seed,
            "latent": list(next(iter(self.splits.values())).bank.shape[1:]),
            "quarantined": aside,
        }

    def result(self, trained: TrainResult, aside: list[Quarantined]) -> dict[str, Any]:
        """Return what the results of all trained heads hold."""
        return {
            **self.facts(aside),
            "num_params": trained.num_params,
            "best_epoch": trained.best_epoch,
            "precision": trained.precision,
            "member": list(trained.member_lr[trained.best_member]),
            "history": [[r.train_loss, r.val_score] for r in trained.history],
            "seconds": trained.seconds,
        }


def sample_scores(
    evaluation: ActionEvaluation | ClassEvaluation, rows: Tensor, recordings: Iterable[object]
) -> dict[str, Any]:
    """Return the number of each sample by which heads are compared on the same ones, as plain data.

    Args:
        evaluation: Of N samples.
        rows: Their places in the table of the split `[N]`, the same for every encoder.
        recordings: Recording of each.
    """
    found = SampleScores.of(evaluation, [str(row) for row in rows.tolist()], recordings)
    values = tuple(float(f"{value:.6g}") for value in found.values)
    return replace(found, values=values).to_dict()


@dataclass(frozen=True, eq=False)
class Jobs:
    """Heads on the same latents.

    Attributes:
        jobs: What to train.
        load: Loads the latents of all splits; called only if something is to be done.
        size: About how large the latents are, in some unit; the largest are begun first.
    """

    jobs: Sequence[Job]
    load: Callable[[], Splits]
    size: int = 1


@dataclass(eq=False)
class HeldLatents:
    """Latents while any of their heads trains: loaded by whoever comes first, freed by the last.

    Attributes:
        load: Loads them.
        room: How many banks may be in memory at once.
        left: Heads that are not finished.
        shared: Whether several of them train at once.
    """

    load: Callable[[], Splits]
    room: threading.Semaphore
    left: int
    shared: bool
    _splits: Splits | None = None
    _loading: threading.Lock = field(default_factory=threading.Lock)

    def splits(self) -> Splits:
        """Return the latents of all splits."""
        with self._loading:
            if self._splits is None:
                while not self.room.acquire(timeout=1):
                    leave_if_asked()
                self._splits = self.load()
                for table in self._splits.values():
                    if self.shared and isinstance(table.bank, StoredLatents):
                        table.bank.shared = True
            return self._splits

    def finished(self) -> None:
        """Count a head whose result is there."""
        with self._loading:
            self.left -= 1
            if not self.left and self._splits is not None:
                self._splits = None
                give_back_heap()
                self.room.release()


def run_probes(context: RunContext, groups: Sequence[Jobs]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Train, evaluate and save heads, or take finished results; yield (group, place, result) as they come.

    On a CPU they train side by side, each in a thread of its own: sharing every operation among the cores
    instead leaves them waiting for each other, and would round otherwise once some are finished. Those of a
    group read one bank, freed with the last of them; the next begins when none of it is left to begin.

    Args:
        context: The run.
        groups: What to train.

    Raises:
        TrainingError: Loss or score stop being finite.
        EmbodimentError: Robot types are blank or unknown (`unknown_robots=pool` takes them knowingly).
        DatasetError: No class, or no usable row.
    """
    places = [(number, place) for number, group in enumerate(groups) for place in range(len(group.jobs))]
    alone = process_count() > 1 or context.device != "cpu"
    # Where the memory for latents was stated, it is for one group.
    most = 1 if alone or context.config.latents_ram_gb is not None else 2
    widest = max((len(group.jobs) for group in groups), default=0)
    threads = 1 if alone else max(1, min(context.cores, most * widest, len(places)))
    if threads > 1:
        # Heads of classes attend to every token and take longest: whoever starts them last waits for them.
        about = {(n, p): groups[n].jobs[p].probe.about for n, p in places}
        places.sort(
            key=lambda at: (-groups[at[0]].size * len(groups[at[0]].jobs), at[0], about[at] != "classes")
        )
    room = threading.Semaphore(most)
    banks = [HeldLatents(g.load, room, len(g.jobs), threads > 1 < len(g.jobs)) for g in groups]
    calls = [
        partial(_run_probe, context, groups[n].jobs[p], banks[n], context.cores // threads) for n, p in places
    ]
    with busy("probes") if threads > 1 else nullcontext(), closing(as_made(calls, threads)) as made:
        for number, result in made:
            yield *places[number], result


def _run_probe(context: RunContext, job: Job, bank: HeldLatents, threads: int) -> dict[str, Any]:
    run = find_question(job.probe.mode).run
    cell = job.cell(context)
    result = cell.compute_together(lambda: run(Probing(context, job, job.seen(bank.splits()), cell, threads)))
    (cell.folder / PROGRESS_FILE).unlink(missing_ok=True)
    bank.finished()
    return result
