"""Which floating-point format a head computes in."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_precision(precision: Precision, device: str) -> torch.dtype:
    """Return the compute dtype; `auto` is bfloat16 where the hardware multiplies it natively.

    That is CUDA from Ampere on, and CPUs with AMX; elsewhere bfloat16 is emulated and slower than float32.
    """
    if precision != "auto":
        return _DTYPES[precision]
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if _cpu_has_amx() else torch.float32


def autocast(device: str, precision: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Return a context that computes matrix products in `precision` and keeps weights in float32."""
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=precision)


def _cpu_has_amx() -> bool:
    """Return whether the CPU has matrix tiles (private name of torch, absent on other architectures)."""
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe is not None and probe())
