"""Where a class head looks: the pooling query's weights over the tokens of a few samples."""

from __future__ import annotations

from typing import Any

import torch

from lary_policy.heads import AttentiveProbe, ClassEvaluation, LatentBatches
from lary_policy.heads.pool import TokenGrid


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
        For each sample its class, the predicted one, and the weights `[t, h, w]`: of the frames, pairs or
        time steps, relative to even attention (1 everywhere).
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
            "true": names[int(evaluation.targets[row])],
            "predicted": names[int(evaluation.predictions[row])],
            "weights": values.tolist(),
        }
        for row, values in zip(chosen.tolist(), maps, strict=True)
    ]
