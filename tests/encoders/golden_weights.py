"""Weights and tensors for comparing a module with its reference class, without storing the weights."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def fill(module: nn.Module) -> nn.Module:
    """Fill every floating-point tensor of the state dict from its name; equal names give equal values.

    numpy's legacy generator is frozen, so values are the same for every version of torch and numpy. Matrices
    and kernels are normal with variance 1 / fan-in, scales of norms 1 + 0.1 normal, running variances their
    square, the rest 0.1 normal.
    """
    state = module.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(value.shape)
            if value.ndim > 1:
                noise /= math.sqrt(max(1, value[0].numel()))
            elif name.endswith(("weight", "running_var", "gamma")):
                noise = (1 + 0.1 * noise) ** (2 if name.endswith("var") else 1)
            else:
                noise *= 0.1
            state[name] = torch.from_numpy(noise).to(value.dtype)
    module.load_state_dict(state)
    return module.eval()


def golden(name: str) -> dict[str, Tensor]:
    """Return the tensors of tests/golden/<name>.safetensors."""
    return load_file(GOLDEN / f"{name}.safetensors")
