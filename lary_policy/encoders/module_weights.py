"""A module with the weights that were asked for: drawn from a seed or read from a file, in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions
from lary_policy.encoders.checkpoint import load_strictly, read_tensors
from lary_policy.encoders.random_init import build_seeded
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import DRAWN, Weights, resolve_weights

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
