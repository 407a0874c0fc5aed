"""What an encoder reads off its module at each call: whether it trains, and where it is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, Concatenate

import torch
from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import DRAWN, Weights, load_strictly, read_tensors, resolve_weights


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


def build_seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return `build()` run under `seed`; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


Rename = Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]]


def module_with_weights(
    build: Callable[[], nn.Module],
    spec: EncoderSpec,
    options: EncoderOptions,
    rename: Rename | None = None,
) -> tuple[nn.Module, Weights]:
    """Build a module with random weights or load it strictly, as `options.weights` says.

    Args:
        build: Returns the module with weights drawn from torch's generator.
        spec: Names the encoder and the places of its weights.
        options: `weights` and `seed` decide.
        rename: From a checkpoint's tensors and the module to tensors under the module's names.

    Returns:
        The module, and the record of its weights for the encoder's constructor.

    Raises:
        WeightsMissingError: The weights are nowhere; the message says how to get them.
        WeightsMismatchError: The file is unreadable, or a tensor is missing, left over or of another shape.
    """
    if options.weights in DRAWN:
        return build_seeded(build, options.seed), DRAWN[options.weights](options.seed)
    path, weights = resolve_weights(spec.name, spec.weights, options.weights)
    module = build()
    tensors = read_tensors(path)
    load_strictly(module, rename(tensors, module) if rename else tensors, weights)
    return module, weights
