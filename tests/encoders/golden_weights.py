"""Weights and tensors for comparing a module with its reference class, without storing the weights."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
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
            state[name] = named_tensor(name, tuple(value.shape))
    module.load_state_dict(state)
    return module.eval()


def named_tensor(name: str, shape: Sequence[int]) -> Tensor:
    """Return the float32 values that `fill` gives to a tensor of that name and shape."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        noise /= math.sqrt(max(1, math.prod(shape[1:])))
    elif name.endswith(("weight", "running_var", "gamma")):
        noise = (1 + 0.1 * noise) ** (2 if name.endswith("var") else 1)
    else:
        noise *= 0.1
    return torch.from_numpy(noise).float()


def golden(name: str) -> dict[str, Tensor]:
    """Return the tensors of tests/golden/<name>.safetensors."""
    return load_file(GOLDEN / f"{name}.safetensors")


def golden_state(name: str) -> dict[str, Tensor]:
    """Return the state dict that `fill` gave to the reference class behind a golden file.

    The file's metadata holds, as JSON under `shapes`, the shape of every tensor by its name.
    """
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
    counter = torch.zeros((), dtype=torch.int64)  # batch norms count their batches
    return {
        k: counter if k.endswith("num_batches_tracked") else named_tensor(k, v) for k, v in shapes.items()
    }
