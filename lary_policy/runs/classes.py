"""Classification probes: the class of a pair of images or of a clip."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lary_policy.data import ClipTable, LabelMap, PairTable
from lary_policy.encoders import Preprocess, prepare_frames
from lary_policy.errors import DatasetError
from lary_policy.frames import decode_frames
from lary_policy.heads import AttentiveProbe, AttentiveProbeConfig, TokenGrid, save_head
from lary_policy.heads.training import LatentBatches
from lary_policy.latents import seen_of
from lary_policy.machine import is_main_process
from lary_policy.runs.probe import Probing, sample_scores
from lary_policy.runs.rows import count_rows
from lary_policy.scores import ClassEvaluation, estimates, evaluate_class
from lary_policy.types import Quarantined

FRAME_PX = 96  # of the frames that a report draws maps over; a clip of nine takes 20 kB
_QUALITY = 80


@torch.inference_mode()
def attention_maps(
    head: AttentiveProbe,
    samples: LatentBatches,
    evaluation: ClassEvaluation,
    grid: TokenGrid | None,
    count: int,
    device: str,
) -> list[dict[str, Any]]:
    """Return the attention of the first samples of the most frequent classes, one a class.

    Args:
        head: A trained head.
        samples: What it was evaluated on.
        evaluation: The result.
        grid: Layout (t, h, w) of the n tokens of one latent; None draws them in one line.
        count: Samples to take.
        device: Where the head is.

    Returns:
        For each sample its place, its class, the predicted one, and the weights `[t, h, w]`: of the frames,
        pairs or time steps, relative to even attention (1 everywhere).
    """
    order = torch.bincount(evaluation.targets, minlength=len(evaluation.class_names)).argsort(descending=True)
    rows = [int((evaluation.targets == c).nonzero()[0]) for c in order if (evaluation.targets == c).any()]
    chosen = torch.tensor(rows[:count])
    batch = samples.to(device, torch.float32).gather(chosen)
    weights = head.attention(batch.latents).sum(2).cpu()  # of all cameras: [b t n]
    _, height, width = grid or (1, 1, weights.shape[-1])
    maps = weights.reshape(len(chosen), -1, height, width) * weights[0].numel()
    names = evaluation.class_names
    return [
        {
            "place": row,
            "true": names[int(evaluation.targets[row])],
            "predicted": names[int(evaluation.predictions[row])],
            "weights": values.tolist(),
        }
        for row, values in zip(chosen.tolist(), maps, strict=True)
    ]


def seen_frames(table: PairTable | ClipTable, row: int, pipeline: Preprocess) -> list[str]:
    """Return the frames of a row as an encoder sees them, small: JPEG files in base64.

    Of several cameras it is the first. The list is empty where a frame is no longer there: its latent is.

    Args:
        table: Rows of a split.
        row: Which one.
        pipeline: How the encoder squashes or crops; colours stay as they are.
    """
    frames = seen_of(table, row)
    images = [image for image in decode_frames(frames) if isinstance(image, Tensor)]
    levels = replace(pipeline, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    return [_jpeg(image, levels) for image in images] if len(images) == len(frames) else []


def _jpeg(image: Tensor, levels: Preprocess) -> str:
    cpu = torch.device("cpu")
    small = prepare_frames(image[None, None], FRAME_PX, levels, device=cpu, dtype=torch.float32)[0]
    buffer = io.BytesIO()
    pixels = small.permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


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
    samples: dict[str, Any] = {}
    found: dict[str, ClassEvaluation] = {}
    for split in spec.report_splits:
        found[split] = evaluate_class(
            head, batches[split], labels.classes, train_counts=labels.counts, device=context.device
        )
        recordings = _recordings(data.table(split).select(kept[split]))
        measured = estimates(found[split], recordings)
        samples[split] = sample_scores(found[split], kept[split], recordings.tolist())
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
        "samples": samples,
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
