"""Stage `probe`: train one head on stored latents, select on val, report on test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lary_policy.actions import ActionContract, ActionStats, Embodiment
from lary_policy.console import progress
from lary_policy.heads import Head, HeadMeta, load_head_config, save_head
from lary_policy.heads.training import LatentBatches, TrainResult, fit
from lary_policy.latents import Bank, stored_latent
from lary_policy.machine import intra_op_threads
from lary_policy.scores import Estimate, Score, estimates, evaluate_action, evaluate_class
from lary_policy.stages.cells import Cell
from lary_policy.stages.config import EncoderChoice, ProbeConfig
from lary_policy.stages.context import RunContext
from lary_policy.stages.data import TaskData
from lary_policy.stages.extract import SplitLatents, demonstration_latents, load_splits
from lary_policy.stages.row_counts import count_rows
from lary_policy.types import Quarantined

Splits = dict[str, SplitLatents]


@dataclass(frozen=True)
class ProbeJob:
    """One head to train.

    Attributes:
        data: Demonstrations of the task.
        encoder: Encoder whose latents it reads.
        probe: Mode, target, head and proprioception.
    """

    data: TaskData
    encoder: EncoderChoice
    probe: ProbeConfig

    @property
    def label(self) -> str:
        """Readable name of the cell."""
        return f"{self.data.task}-{self.encoder.name}-{self.probe.mode}-{self.probe.target}"


def probe_cell(context: RunContext, job: ProbeJob) -> Cell:
    """Return the cell of a trained head."""
    head = load_head_config(job.probe.head)
    upstream = demonstration_latents(context, job.data.task, job.encoder)
    seed = (context.config.seed, context.config.protocol)
    return context.cell("probe", job.label, upstream, job.probe, head, seed, context.device)


def run_probe(context: RunContext, job: ProbeJob, splits: Splits | None = None) -> dict[str, Any]:
    """Train, evaluate and save one head, or return the finished result.

    Args:
        context: The run.
        job: What to train.
        splits: Latents of the three splits, if the caller has them already.

    Returns:
        Scores, an example trajectory or the confusion matrix, constant dimensions, set-aside rows, history.
    """
    cell = probe_cell(context, job)
    if cell.done:
        return cell.result()
    splits = splits or load_splits(context, job.data, job.encoder)
    with progress(f"probe {job.label}") as update, intra_op_threads(context.cores):
        run = _atomic if job.probe.mode == "atomic" else _action
        result = run(context, job, splits, cell, update)
    return cell.finish(result)


def _head_meta(context: RunContext, job: ProbeJob, sample: LatentBatches, **fields: Any) -> HeadMeta:
    encoder = context.encoder(job.encoder)
    return HeadMeta(
        model=load_head_config(job.probe.head).model,
        encoder=job.encoder.name,
        fingerprint=encoder.fingerprint,
        latent_shape=sample.latent_shape,
        cameras=context.config.cameras,
        embodiment=context.embodiment_of(job.data.task).name,
        task=job.data.task,
        mode=job.probe.mode,
        target=job.probe.target,
        token_grid=stored_latent(encoder).grid,
        seed=context.config.seed,
        **fields,
    )


def _action(context: RunContext, job: ProbeJob, splits: Splits, cell: Cell, update: Any) -> dict[str, Any]:
    embodiment = context.embodiment_of(job.data.task)
    raw = {name: _targets(split, job.probe, embodiment) for name, split in splits.items()}
    stats = ActionStats.fit(raw["train"].actions, embodiment)
    proprio_stats = ActionStats.fit(raw["train"].anchors, embodiment) if job.probe.proprio else None
    batches = {name: value.batches(stats, proprio_stats) for name, value in raw.items()}
    meta = _head_meta(
        context,
        job,
        batches["train"],
        chunk=context.config.stride,
        action_dim=embodiment.action_dim,
        stats=stats,
        proprio_stats=proprio_stats,
        contract=ActionContract.of(embodiment, job.probe.target),
    )
    head, trained = _train(context, job, meta, batches, update)
    evaluation = evaluate_action(head, batches["test"], stats, embodiment, device=context.device)
    save_head(cell.folder, head, meta)
    episodes = raw["test"].episodes.numpy()
    found = estimates(evaluation, episodes)
    scores = [_score(context, job, meta, name, e, len(episodes), trained) for name, e in found.items()]
    constant = stats.constant(raw["train"].actions)
    return {
        **_common(job, meta, trained, [q for split in splits.values() for q in split.table.quarantined]),
        "scores": [s.to_dict() for s in scores],
        "rows": {name: _counts(split, len(raw[name].index)) for name, split in splits.items()},
        "constant": [[embodiment.labels[i], stats.mean[i]] for i in constant],
        "trajectory": _trajectory(raw["test"], evaluation.targets, evaluation.predictions),
    }


@dataclass(frozen=True)
class _Targets:
    """Physical targets of one split."""

    bank: Bank
    index: Tensor
    actions: Tensor
    anchors: Tensor
    episodes: Tensor

    def batches(self, stats: ActionStats, proprio_stats: ActionStats | None) -> LatentBatches:
        proprio = None if proprio_stats is None else proprio_stats.normalise(self.anchors)
        return LatentBatches(self.bank, self.index, stats.normalise(self.actions), proprio)


def _targets(split: SplitLatents, probe: ProbeConfig, embodiment: Embodiment) -> _Targets:
    """Pick frames and actions of the undisturbed chunks.

    What a disturbance adds inside a chunk cannot be told from its two frames: as a target it is noise. The
    chunks after it are what disturbances are for, they show the way back.
    """
    pairs = split.pairs.select(split.table.kept)
    rows = torch.nonzero(pairs.noise_steps() == 0).flatten()
    actions, anchors = pairs.actions()[rows], pairs.anchors()[rows]
    if probe.target == "relative":
        actions = embodiment.to_relative(actions, anchors)
    index = split.table.change() if probe.mode == "pair" else split.table.present()
    return _Targets(split.table.bank, index[rows], actions, anchors, pairs.episodes()[rows])


def _counts(split: SplitLatents, used: int) -> dict[str, Any]:
    kept = len(split.table.kept)
    return count_rows(split.pairs, kept, used, disturbed=kept - used)


def _atomic(context: RunContext, job: ProbeJob, splits: Splits, cell: Cell, update: Any) -> dict[str, Any]:
    labels = {name: s.pairs.select(s.table.kept).labels() or () for name, s in splits.items()}
    classes = tuple(sorted({label for label in labels["train"] if label}))
    batches, aside = {}, [q for split in splits.values() for q in split.table.quarantined]
    rows: dict[str, list[int]] = {}
    counts: dict[str, Any] = {}
    for name, split in splits.items():
        rows[name] = [i for i, label in enumerate(labels[name]) if label in classes]
        blank, kept = labels[name].count(""), len(labels[name])
        unknown = [label for label in labels[name] if label and label not in classes]
        aside += [Quarantined(u, f"class of split {name} that train lacks", "probe") for u in unknown]
        targets = torch.tensor([classes.index(labels[name][i]) for i in rows[name]])
        counts[name] = count_rows(
            split.pairs, kept, len(rows[name]), unlabelled=blank, unknown_class=len(unknown)
        )
        batches[name] = LatentBatches(split.table.bank, split.table.change()[rows[name]], targets)
    meta = _head_meta(context, job, batches["train"], class_names=classes)
    head, trained = _train(context, job, meta, batches, update)
    evaluation = evaluate_class(head, batches["test"], classes, device=context.device)
    save_head(cell.folder, head, meta)
    test = splits["test"].pairs.select(splits["test"].table.kept)
    episodes = test.episodes()[rows["test"]].numpy()
    found = estimates(evaluation, episodes)
    scores = [_score(context, job, meta, name, e, len(episodes), trained) for name, e in found.items()]
    return {
        **_common(job, meta, trained, aside),
        "scores": [s.to_dict() for s in scores],
        "rows": counts,
        "confusion": {"labels": classes, "counts": evaluation.confusion.tolist()},
    }


def _train(
    context: RunContext, job: ProbeJob, meta: HeadMeta, batches: dict[str, LatentBatches], update: Any
) -> tuple[Head, TrainResult]:
    config = load_head_config(job.probe.head).train
    config = replace(config, device=context.device, seed=config.seed + context.config.seed)
    return fit(
        meta, batches["train"], batches["val"], config, lambda record: update(record.epoch, record.epochs)
    )


def _score(
    context: RunContext,
    job: ProbeJob,
    meta: HeadMeta,
    metric: str,
    estimate: Estimate,
    n: int,
    trained: TrainResult,
) -> Score:
    return Score.of(
        estimate,
        stage="probe",
        encoder=job.encoder.name,
        head=meta.label,
        embodiment=meta.embodiment,
        task=job.data.task,
        mode=job.probe.mode,
        target=job.probe.target,
        metric=metric,
        n=n,
        split="test",
        seed=context.config.seed,
        protocol=context.config.protocol,
        fingerprint=meta.fingerprint,
        seconds=trained.seconds,
    )


def _common(job: ProbeJob, meta: HeadMeta, trained: TrainResult, aside: list[Quarantined]) -> dict[str, Any]:
    return {
        "task": job.data.task,
        "encoder": job.encoder.name,
        "mode": job.probe.mode,
        "target": job.probe.target,
        "head": meta.label,
        "num_params": trained.num_params,
        "best_epoch": trained.best_epoch,
        "precision": trained.precision,
        "history": [[r.train_loss, r.val_score] for r in trained.history],
        "quarantined": aside,
        "seconds": trained.seconds,
    }


def _trajectory(targets: _Targets, true: Tensor, predicted: Tensor) -> dict[str, Any]:
    """Return the chunks of the first test episode, joined in time."""
    episode = int(targets.episodes.min())
    chosen = targets.episodes == episode
    return {
        "episode": f"test {episode}",
        "true": true[chosen].flatten(0, 1).tolist(),
        "predicted": predicted[chosen].flatten(0, 1).tolist(),
    }
