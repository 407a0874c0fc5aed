"""What an encoder reads off its module at each call: whether it trains, and where it is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import chain
from typing import Any, Concatenate

import torch
from torch import nn


def no_grad_if_frozen[**P, R](method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Run a method of an encoder without gradients unless a parameter of its attribute `model` is trained.

    Encoders are frozen when they are built, so that their latents are ordinary tensors that heads can train
    on. Whoever trains parts of `model` (an unfrozen block, adapters) gets gradients without asking.
    """

    @functools.wraps(method)
    def run(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in self.model.parameters())
        with torch.set_grad_enabled(trains):
            return method(self, *args, **kwargs)

    return run


def device_of(model: nn.Module, built_on: torch.device) -> torch.device:
    """Return the device of a module's tensors, which may have moved; `built_on` where it has none."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return built_on if first is None else first.device
