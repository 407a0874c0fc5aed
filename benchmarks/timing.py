"""Seconds of one call, on either kind of device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def timed(call: Callable[[], object], device: str) -> float:
    """Return the wall time of a call with all work that it started on a GPU."""
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started
