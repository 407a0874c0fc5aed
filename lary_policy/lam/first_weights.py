"""First weights with which a model predicts that nothing changes: few steps then learn what does.

Drawn as those who published an architecture draw them, weights spend the steps that two cores make in twenty
minutes on learning to copy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# Of the mean square of a channel: what keeps a fit of some thousand tokens from following their noise.
_RIDGE = 1e-2


@torch.no_grad()
def silence(layers: nn.Module, ends: tuple[str, ...]) -> None:
    """Let the branches of each layer add nothing, given what the names of their last weights begin with."""
    for layer in layers.children():
        for name, value in layer.named_parameters():
            if name.startswith(ends):
                value.zero_()


@torch.no_grad()
def fit_last(last: nn.Linear, predict: Callable[[], object], target: Tensor) -> None:
    """Fit a decoder's last layer to a target [p n e] by least squares, given what runs the decoder."""
    seen: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        predict()
    finally:
        handle.remove()
    count = target.shape[1]  # what stands before are codes
    x, y = (one[:, -count:].flatten(0, 1).double() for one in (seen[-1], target))
    mean, goal = x.mean(dim=0), y.mean(dim=0)
    x = x - mean
    gram = x.T @ x
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram, x.T @ (y - goal))
    last.weight.copy_(weight.T)
    last.bias.copy_(goal - mean @ weight)


@torch.no_grad()
def take_codes(codes: Tensor, vectors: Tensor) -> None:
    """Let codes [K q] be some of the vectors [p s q] of a first batch, as many as there are."""
    flat = vectors.flatten(0, 1)
    chosen = flat[torch.randperm(len(flat))[: len(codes)]]
    codes[: len(chosen)] = chosen
