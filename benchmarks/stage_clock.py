"""Where the time of a loop goes: methods wrapped with a clock while a block runs."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

Methods = Mapping[str, list[tuple[Any, str]]]


class StageClock:
    """Adds up the wall time of named stages.

    On CUDA the device is idle before and after every stage, which costs time itself: measure rates without.

    Args:
        device: Where the work is done.

    Attributes:
        seconds: By stage.
    """

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    @contextlib.contextmanager
    def watching(self, stages: Methods) -> Iterator[None]:
        """Time the methods (object, name) of each stage inside the block; none may call another of them."""
        methods = [(stage, *method) for stage, named in stages.items() for method in named]
        for stage, owner, name in methods:
            setattr(owner, name, self._timed(stage, getattr(owner, name)))
        try:
            yield
        finally:
            for _, owner, name in methods:
                delattr(owner, name)  # the class has its own

    def _timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*args: Any, **options: Any) -> Any:
            started = self._now()
            result = call(*args, **options)
            self.seconds[stage] = self.seconds.get(stage, 0.0) + self._now() - started
            return result

        return timed

    def _now(self) -> float:
        if self._device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()
