"""Classification probes: the class of a pair of images or of a clip."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lary_policy.data import ClipTable, LabelMap, PairTable
from lary_policy.errors import DatasetError
from lary_policy.heads import AttentiveProbe, AttentiveProbeConfig, save_head
from lary_policy.heads.training import LatentBatches
from lary_policy.machine import is_main_process
from lary_policy.runs.attention import attention_maps, seen_frames
from lary_policy.runs.probe import Probing
from lary_policy.runs.rows import count_rows
from lary_policy.scores import ClassEvaluation, estimates, evaluate_class
from lary_policy.types import Quarantined

# Models whose array keeps a time axis of length 1, so that the reference adds its temporal embedding.
KEEPS_TIME = frozenset({"wan2-2"})


def probe_classes(probing: Probing) -> dict[str, Any]:
    """Train, evaluate and save one class head, or the heads of a sweep of which the best is kept.

    Only the first of several processes has a result.
    """
    context, data = probing.context, probing.job.data
    spec = data.spec
    labels = _label_map(probing)
    batches: dict[str, LatentBatches] = {}
    kept: dict[str, Tensor] = {}
    aside, rows = probing.aside(), {}
    for split in probing.splits:
        batches[split], kept[split], unknown = _batches(probing, split, labels)
        aside += unknown
        rows[split] = count_rows(
            data.table(split),
            len(probing.samples(split).kept),
            len(kept[split]),
            unknown_class=len(unknown),
            unlabelled=_labels(probing, split).count(""),
        )
    meta = probing.meta(batches[spec.train_split], class_names=labels.classes, model=_model(probing))
    head, trained = probing.train(meta, batches)
    if not is_main_process():
        return {}
    save_head(probing.cell.folder, head, meta)
    scores: list[dict[str, Any]] = []
    found: dict[str, ClassEvaluation] = {}
    for split in spec.report_splits:
        found[split] = evaluate_class(
            head, batches[split], labels.classes, train_counts=labels.counts, device=context.device
        )
        measured = estimates(found[split], _recordings(data.table(split).select(kept[split])))
        scores += probing.scores(meta, split, measured, len(batches[split]), trained.seconds)
    first = spec.report_splits[0]
    maps: list[dict[str, Any]] = []
    if isinstance(head, AttentiveProbe) and context.config.attention:
        count, grid = context.config.attention, meta.token_grid
        maps = attention_maps(head, batches[first], found[first], grid, count, context.device)
        _add_frames(probing, maps, kept[first])
    return {
        **probing.result(trained, aside),
        "scores": scores,
        "warnings": list(found[first].warnings()),
        "rows": rows,
        "num_classes": [len(labels), spec.num_classes],
        "classes": _classes(found[first], labels),
        "confusion": {"labels": labels.classes, "counts": found[first].confusion.tolist()},
        "attention": maps,
    }


def _label_map(probing: Probing) -> LabelMap:
    """Return the classes of the training split.

    Raises:
        DatasetError: There are less than two.
    """
    split = probing.job.data.spec.train_split
    labels = LabelMap.fit(_labels(probing, split))
    if len(labels) < 2:
        raise DatasetError(
            expected=f"at least two classes in split {split} of {probing.job.data.name}",
            got=f"'{labels.classes[0]}' alone",
            fix="Add rows of other classes: with one there is nothing to tell apart.",
        )
    return labels


def _add_frames(probing: Probing, maps: list[dict[str, Any]], kept: Tensor) -> None:
    """Put the frames of each sample of the first reported split beside its maps."""
    data, view = probing.job.data, probing.job.view
    table = data.table(data.spec.report_splits[0])
    pipeline = view.spec.preprocess_named(view.preprocess)
    for one in maps:
        one["frames"] = seen_frames(table, int(kept[one.pop("place")]), pipeline)


def _model(probing: Probing) -> Any:
    """Return the sizes of the head; what the reference gives a time axis gets its temporal embedding."""
    job = probing.job
    model, key = job.probe.head.model, job.view.spec.reference_key
    timed = job.data.protocol == "lary" and key in KEEPS_TIME
    return replace(model, temporal="always") if timed and isinstance(model, AttentiveProbeConfig) else model


def _labels(probing: Probing, split: str) -> tuple[str, ...]:
    """Return the class of each usable row.

    Raises:
        DatasetError: The table has no classes.
    """
    data = probing.job.data
    labels = data.table(split).select(probing.samples(split).kept).labels()
    if labels is None:
        raise DatasetError(
            expected=f"a column of classes in split {split} of {data.name}",
            got="none",
            fix="Choose a source with classes, or train action heads on this one.",
        )
    return labels


def _batches(
    probing: Probing, split: str, labels: LabelMap
) -> tuple[LatentBatches, Tensor, tuple[Quarantined, ...]]:
    """Return the samples whose class the training split has, their rows in the table, and the others."""
    table, samples = probing.job.data.table(split), probing.samples(split)
    items = [table.item(table.rows[i]) for i in samples.kept.tolist()]
    encoded = labels.encode(_labels(probing, split), items)
    if not len(encoded.kept):
        raise DatasetError(
            expected=f"a sample in split {split} of {probing.job.data.name} with a class that training has",
            got=f"{len(items)} samples, {len(encoded.quarantined)} of other classes, the rest of none",
            fix="Correct the split, or choose another dataset: nothing could be chosen or reported on it.",
        )
    index = samples.change()[encoded.kept]
    return LatentBatches(samples.bank, index, encoded.ids), samples.kept[encoded.kept], encoded.quarantined


def _recordings(table: PairTable | ClipTable) -> NDArray[Any]:
    """Return the recording of each row: what intervals are drawn over."""
    return np.asarray(table.recordings()) if isinstance(table, ClipTable) else table.episodes().numpy()


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
