"""What a trained head answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lary_policy.errors import ShapeError
from lary_policy.heads.training.batches import LatentBatches


@torch.inference_mode()
def predict(head: nn.Module, samples: LatentBatches, *, device: str = "cpu") -> Tensor:
    """Return the head's outputs for all samples, `[N ...]` float32 on CPU.

    Args:
        head: On `device`; it is left in eval mode.
        samples: Their order is that of the answers.
        device: Where to compute.

    Raises:
        ShapeError: There are no samples.
    """
    if len(samples) == 0:
        raise ShapeError(expected="at least one sample", got="none", fix="Check the test split.")
    head.eval()
    served = samples.to(device, torch.float32)
    batches = served.ahead(served.evaluation_rows(), served.gather)
    return torch.cat([head(*batch.inputs).float().cpu() for batch in batches])
