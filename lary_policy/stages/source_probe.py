"""Stage `probe` on a source: heads on its latents, selected on one split, reported on the others."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from lary_policy.actions import load_embodiment
from lary_policy.console import progress
from lary_policy.encoders import encoder_spec
from lary_policy.heads import Head, HeadConfig, HeadMeta
from lary_policy.heads.training import LatentBatches, TrainResult, agree, fit, open_logger, wait_for_all
from lary_policy.latents import stored_latent
from lary_policy.machine import is_main_process
from lary_policy.scores import Estimate, Score
from lary_policy.stages.cells import Cell
from lary_policy.stages.config import EncoderChoice
from lary_policy.stages.given_statistics import statistics_key
from lary_policy.stages.locks import exclusive
from lary_policy.stages.source_data import SourceContext, SourceData
from lary_policy.stages.source_latents import Samples, extract_cell
from lary_policy.types import Quarantined

Splits = Mapping[str, Samples]
PROGRESS_FILE = "training.safetensors"  # what an interrupted training goes on from


@dataclass(frozen=True)
class SourceJob:
    """One head to train.

    Attributes:
        data: The source under one protocol.
        encoder: Whose latents.
        head: Architecture and training.
        target: Action target, or `class`.
        seed: Added to that of the head's configuration.
    """

    data: SourceData
    encoder: EncoderChoice
    head: HeadConfig
    target: str
    seed: int

    @property
    def mode(self) -> str:
        """Mode of its scores: `pair`, `atomic` (classes of pairs) or `composite` (classes of clips)."""
        if self.target != "class":
            return "pair"
        return "atomic" if self.data.spec.kind == "pairs" else "composite"

    @property
    def label(self) -> str:
        """Readable name of the cell."""
        return f"{self.data.label}-{self.encoder.name}-{self.head.label}-{self.target}"


def jobs_of(context: SourceContext, data: SourceData, choice: EncoderChoice) -> list[SourceJob]:
    """Return the heads that a run trains on one encoder's latents."""
    targets = ("class",) if data.kind == "classes" else context.config.targets_for(data.protocol)
    heads = context.config.heads_for(data.protocol, data.kind)
    grid = itertools.product(heads, targets, context.config.every_seed)
    return [SourceJob(data, choice, head, target, seed) for head, target, seed in grid]


def probe_cell(context: SourceContext, job: SourceJob) -> Cell:
    """Return the cell of a trained head."""
    c = context.config
    upstream = extract_cell(context, job.data, job.encoder).key
    # What changes the numbers of one kind of probe must not make cells of the other kind be run again.
    actions = (c.rotation, c.unknown_robots, *statistics_key(c))
    own = (c.attention,) if job.target == "class" else actions
    return context.cell("probe", job.label, upstream, job.head, job.target, job.seed, own)


def run_probe(context: SourceContext, job: SourceJob, splits: Splits) -> dict[str, Any]:
    """Train, evaluate and save one head, or return the finished result.

    Raises:
        TrainingError: Loss or score stop being finite.
        EmbodimentError: Robot types are blank or unknown (`unknown_robots=pool` takes them knowingly).
        DatasetError: No class, or no usable row.
    """
    from lary_policy.stages.source_actions import probe_actions
    from lary_policy.stages.source_classes import probe_classes

    cell = probe_cell(context, job)
    if agree(cell.done):
        return cell.result()
    run = probe_classes if job.target == "class" else probe_actions
    lock = exclusive(context.lock(cell.folder.name)) if is_main_process() else nullcontext()
    with lock:
        if not agree(cell.done):
            result = run(context, job, splits, cell)
            if is_main_process():
                cell.finish(result)
                (cell.folder / PROGRESS_FILE).unlink(missing_ok=True)
        wait_for_all()
    return cell.result()


def head_meta(context: SourceContext, job: SourceJob, sample: LatentBatches, **fields: Any) -> HeadMeta:
    """Describe the head of a job."""
    encoder, spec = context.shelf.load(job.encoder), job.data.spec
    return HeadMeta(
        model=job.head.model,
        encoder=job.encoder.name,
        fingerprint=encoder.fingerprint,
        latent_shape=sample.latent_shape,
        cameras=spec.cameras,
        embodiment=spec.embodiment or "-",
        task=spec.key,
        mode="pair" if job.target != "class" else "atomic",
        target=job.target,
        token_grid=stored_latent(encoder).grid,
        seed=job.seed,
        **fields,
    )


def train_head(
    context: SourceContext, job: SourceJob, meta: HeadMeta, batches: Mapping[str, LatentBatches], cell: Cell
) -> tuple[Head, TrainResult]:
    """Train the head of a job; an interrupted training goes on."""
    spec, config = job.data.spec, job.head.train
    config = replace(config, device=context.device, seed=config.seed + job.seed)
    cell.folder.mkdir(parents=True, exist_ok=True)
    loggers = [open_logger(name, cell.folder, {"cell": cell.label}) for name in context.config.loggers]
    try:
        with progress(f"probe {job.label}") as update:
            return fit(
                meta,
                batches[spec.train_split],
                batches[spec.select_split],
                config,
                lambda record: update(record.epoch, record.epochs),
                checkpoint=cell.folder / PROGRESS_FILE,
                loggers=loggers,
            )
    finally:
        for logger in loggers:
            logger.close()


def scores_of(
    context: SourceContext,
    job: SourceJob,
    meta: HeadMeta,
    split: str,
    estimates: Mapping[str, Estimate],
    count: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """Return the scores of one split as plain data."""
    spec = job.data.spec
    return [
        Score.of(
            estimate,
            stage="probe",
            encoder=job.encoder.name,
            head=meta.label,
            embodiment=load_embodiment(spec.embodiment).name if spec.embodiment else "-",
            task=spec.key,
            mode=job.mode,
            target=job.target,
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


def common_result(job: SourceJob, trained: TrainResult, aside: list[Quarantined]) -> dict[str, Any]:
    """Return what the results of all probes hold."""
    return {
        "task": job.data.spec.key,
        "protocol": job.data.protocol,
        "encoder": job.encoder.name,
        "reference_key": encoder_spec(job.encoder.name).reference_key,
        "mode": job.mode,
        "target": job.target,
        "head": job.head.label,
        "num_params": trained.num_params,
        "best_epoch": trained.best_epoch,
        "precision": trained.precision,
        "seed": job.seed,
        "member": list(trained.member_lr[trained.best_member]),
        "history": [[r.train_loss, r.val_score] for r in trained.history],
        "quarantined": aside,
        "seconds": trained.seconds,
    }
