"""Heads on a GPU answer a first batch as they do on the CPU before they are trained there."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from lary_policy.heads.training.batches import LatentBatches
from lary_policy.machine import autocast, require_like_cpu

_SAMPLES = 8


@torch.inference_mode()
def require_heads_like_cpu(heads: Sequence[nn.Module], samples: LatentBatches) -> None:
    """Compare what each head answers to the first few samples on their device with what its copy answers.

    Raises:
        DeviceError: Answers differ by more than the precision explains.
    """
    rows = torch.arange(min(_SAMPLES, len(samples)))
    batch = samples.gather(rows)
    for head in heads:
        training = head.training
        head.eval()
        with autocast(samples.device, samples.dtype):
            got = head(*batch.inputs)
        expected = copy.deepcopy(head).cpu().float()(*(value.cpu().float() for value in batch.inputs))
        head.train(training)
        require_like_cpu(type(head).__name__, got, expected, samples.dtype)
