"""What this machine offers a run: device, threads, processes, precision; torch is imported when used."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from lary_policy.errors import ConfigError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> str:
    """Return `cpu` or a CUDA device; `auto` takes CUDA where there is one.

    Raises:
        ConfigError: CUDA is asked for and not there, or the name is no device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return name
    if name == "cuda" or (name.startswith("cuda:") and name[5:].isdecimal()):
        if not torch.cuda.is_available():
            raise ConfigError(
                expected=f"a CUDA device for device={name}",
                got="none on this machine",
                fix="Pass device=cpu.",
            )
        return name
    raise ConfigError(
        expected="device auto, cpu, cuda or cuda:<index>", got=f"'{name}'", fix="Pass device=auto."
    )


def available_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def intra_op_threads(count: int) -> Iterator[None]:
    """Use `count` intra-op torch threads inside the block."""
    import torch

    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def process_rank() -> int:
    """Return the number of this process: 0 for the first one, and for one that was started alone."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """Return how many processes `accelerate launch` or `torchrun` started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this process may write results: it was started alone or is the launcher's first."""
    return process_rank() == 0


def is_connected() -> bool:
    """Return whether this process has met the others of its launcher."""
    distributed = sys.modules.get("torch.distributed")  # not imported for the question alone
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def require_one_process(what: str) -> None:
    """Raise ConfigError if a launcher started several processes for something that needs one."""
    if process_count() > 1:
        raise ConfigError(
            expected=f"one process for {what}",
            got=f"{process_count()} processes of a launcher",
            fix="Start it without `accelerate launch`; heads of runs with source=<key> train in several.",
        )


Precision = Literal["auto", "float32", "bfloat16"]


def resolve_precision(precision: Precision, device: str) -> torch.dtype:
    """Return the compute dtype; `auto` is bfloat16 where the hardware multiplies it natively.

    That is CUDA from Ampere on, and CPUs with AMX; elsewhere bfloat16 is emulated and slower than float32.
    """
    import torch

    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if _cpu_has_amx() else torch.float32


def autocast(device: str, precision: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Return a context that computes matrix products in `precision` and keeps weights in float32."""
    import torch

    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=precision)


def _cpu_has_amx() -> bool:
    """Return whether the CPU has matrix tiles (private name of torch, absent on other architectures)."""
    import torch

    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe is not None and probe())
