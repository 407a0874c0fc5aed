"""Classification probes on a source: the class of a pair of images or of a clip."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lary_policy.data import ClipTable, LabelMap
from lary_policy.errors import DatasetError
from lary_policy.heads import AttentiveProbe, AttentiveProbeConfig, save_head
from lary_policy.heads.training import LatentBatches
from lary_policy.machine import is_main_process
from lary_policy.scores import ClassEvaluation, estimates, evaluate_class
from lary_policy.stages.attention import attention_maps, seen_frames
from lary_policy.stages.cells import Cell
from lary_policy.stages.row_counts import count_rows
from lary_policy.stages.source_data import SourceContext, SourceData
from lary_policy.stages.source_latents import Samples
from lary_policy.stages.source_probe import SourceJob, Splits, common_result, head_meta, scores_of, train_head
from lary_policy.types import Quarantined

# Models whose array keeps a time axis of length 1, so that the reference adds its temporal embedding.
KEEPS_TIME = frozenset({"wan2-2"})


def probe_classes(context: SourceContext, job: SourceJob, splits: Splits, cell: Cell) -> dict[str, Any]:
    """Train, evaluate and save one class head, or the heads of a sweep of which the best is kept.

    Only the first of several processes has a result.
    """
    spec, data = job.data.spec, job.data
    train = spec.train_split
    labels = _label_map(data, splits[train])
    batches: dict[str, LatentBatches] = {}
    kept: dict[str, torch.Tensor] = {}
    aside = [q for samples in splits.values() for q in samples.quarantined]
    rows: dict[str, Any] = {}
    for split, samples in splits.items():
        batches[split], kept[split], unknown = _batches(data, split, samples, labels)
        aside += unknown
        blank = _labels(data, split, samples).count("")
        rows[split] = count_rows(
            data.table(split),
            len(samples.kept),
            len(kept[split]),
            unknown_class=len(unknown),
            unlabelled=blank,
        )
    meta = head_meta(context, job, batches[train], class_names=labels.classes)
    meta = replace(meta, model=_model(context, job))
    head, trained = train_head(context, job, meta, batches, cell)
    if not is_main_process():
        return {}
    save_head(cell.folder, head, meta)
    scores: list[dict[str, Any]] = []
    found: dict[str, ClassEvaluation] = {}
    for split in spec.report_splits:
        found[split] = evaluate_class(
            head, batches[split], labels.classes, train_counts=labels.counts, device=context.device
        )
        measured = estimates(found[split], _recordings(data, split, kept[split]))
        scores += scores_of(context, job, meta, split, measured, len(batches[split]), trained.seconds)
    first = spec.report_splits[0]
    maps: list[dict[str, Any]] = []
    if isinstance(head, AttentiveProbe) and context.config.attention:
        count, grid = context.config.attention, meta.token_grid
        maps = attention_maps(head, batches[first], found[first], grid, count, context.device)
        _add_frames(context, job, maps, kept[first])
    return {
        **common_result(job, trained, aside),
        "scores": scores,
        "rows": rows,
        "num_classes": [len(labels), spec.num_classes],
        "classes": _classes(found[first], labels),
        "confusion": {"labels": labels.classes, "counts": found[first].confusion.tolist()},
        "attention": maps,
    }


def _label_map(data: SourceData, samples: Samples) -> LabelMap:
    """Return the classes of the training split.

    Raises:
        DatasetError: There are less than two.
    """
    labels = LabelMap.fit(_labels(data, data.spec.train_split, samples))
    if len(labels) < 2:
        raise DatasetError(
            expected=f"at least two classes in split {data.spec.train_split} of {data.spec.key}",
            got=f"'{labels.classes[0]}' alone",
            fix="Add rows of other classes: with one there is nothing to tell apart.",
        )
    return labels


def _add_frames(
    context: SourceContext, job: SourceJob, maps: list[dict[str, Any]], kept: torch.Tensor
) -> None:
    """Put the frames of each sample of the first reported split beside its maps."""
    table = job.data.table(job.data.spec.report_splits[0])
    pipeline = context.shelf.load(job.encoder).spec.preprocess_named(job.encoder.preprocess)
    for one in maps:
        one["frames"] = seen_frames(table, int(kept[one.pop("place")]), pipeline)


def _model(context: SourceContext, job: SourceJob) -> AttentiveProbeConfig:
    model, key = job.head.model, context.shelf.load(job.encoder).spec.reference_key
    if not isinstance(model, AttentiveProbeConfig):
        raise DatasetError(
            expected="an attentive head", got=job.head.label, fix="Pass heads=[attentive-sweep]."
        )
    return replace(model, temporal="always") if job.data.protocol == "lary" and key in KEEPS_TIME else model


def _labels(data: SourceData, split: str, samples: Samples) -> tuple[str, ...]:
    """Return the class of each usable row.

    Raises:
        DatasetError: The table has no classes.
    """
    labels = data.table(split).select(samples.kept).labels()
    if labels is None:
        raise DatasetError(
            expected=f"a column of classes in split {split} of {data.spec.key}",
            got="none",
            fix="Choose a source with classes, or train action heads on this one.",
        )
    return labels


def _batches(
    data: SourceData, split: str, samples: Samples, labels: LabelMap
) -> tuple[LatentBatches, torch.Tensor, tuple[Quarantined, ...]]:
    """Return the samples whose class the training split has, their rows in the table, and the others."""
    table = data.table(split)
    items = [table.item(table.rows[i]) for i in samples.kept.tolist()]
    encoded = labels.encode(_labels(data, split, samples), items)
    if not len(encoded.kept):
        raise DatasetError(
            expected=f"a sample in split {split} of {data.spec.key} with a class that training has",
            got=f"{len(items)} samples, {len(encoded.quarantined)} of other classes, the rest of none",
            fix="Correct the split, or choose another dataset: nothing could be chosen or reported on it.",
        )
    index = samples.index[encoded.kept]
    return LatentBatches(samples.bank, index, encoded.ids), samples.kept[encoded.kept], encoded.quarantined


def _recordings(data: SourceData, split: str, rows: torch.Tensor) -> NDArray[Any]:
    """Return the recording of each row: what intervals are drawn over."""
    table = data.table(split).select(rows)
    if isinstance(table, ClipTable):
        return np.asarray(table.recordings())
    return table.episodes().numpy()


def _classes(evaluation: ClassEvaluation, labels: LabelMap) -> list[dict[str, Any]]:
    """Return every class with its counts and scores."""
    return [
        {
            "name": one.name,
            "train": count,
            "test": one.count,
            "precision": one.precision,
            "recall": one.recall,
            "f1": one.f1,
        }
        for one, count in zip(evaluation.scores, labels.counts, strict=True)
    ]
