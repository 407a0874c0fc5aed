"""Where a class head looks: the pooling query's weights over tokens, and the frames of the samples."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lary_policy.data import ClipTable, PairTable
from lary_policy.encoders import Preprocess, prepare_frames
from lary_policy.frames import decode_frames
from lary_policy.heads import AttentiveProbe, TokenGrid
from lary_policy.heads.training import LatentBatches
from lary_policy.latents import frames_of
from lary_policy.scores import ClassEvaluation

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
    one = table.rows[row]
    frames = (one.src_frames[0], one.tgt_frames[0]) if isinstance(table, PairTable) else frames_of(one)  # type: ignore[union-attr,arg-type]
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
