"""Several heads trained side by side on the same batches: LARYBench's sweep of learning rates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lary_policy.heads.batches import Batch
from lary_policy.heads.objective import Objective

# (lr, weight decay) of the reference's five heads (protocol section 4.2); the paper names the first four.
REFERENCE_SWEEP = ((5e-3, 0.01), (3e-3, 0.1), (1e-3, 0.4), (3e-4, 0.8), (1e-4, 0.01))


class HeadStack(nn.Module):
    """Heads of one architecture that are trained on the same batches, read and moved once for all of them.

    On CUDA and small batches their weights are stacked, so that one kernel serves all heads. Otherwise each
    head runs forward and backward on its own: its matrix products fill the device already, and only its
    activations are kept.

    Args:
        heads: The heads; they keep their own weights.
    """

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, *inputs: Tensor, **named: Tensor | None) -> Tensor:
        """Map the inputs of one head to the outputs of all, `[b s ...]` for s heads, with stacked weights."""
        every = [dict(head.named_parameters()) for head in self.heads]
        stacked = {name: torch.stack([one[name] for one in every]) for name in every[0]}
        base = self.heads[0]
        return torch.vmap(lambda weights: functional_call(base, weights, inputs, named), out_dims=1)(stacked)


def members_of(head: nn.Module) -> tuple[nn.Module, ...]:
    """Return the heads of a stack, or the head itself."""
    return tuple(head.heads) if isinstance(head, HeadStack) else (head,)


def stacked_objective(objective: Objective) -> Objective:
    """Return the objective of a stack: one loss a head `[s]` and one score a sample and head `[b s]`.

    Args:
        objective: Objective of one head, which does no more than call the head with the batch's inputs.
    """

    def each(term: str, stack: nn.Module, batch: Batch) -> list[Tensor]:
        outputs = stack(*batch.inputs).unbind(1)
        return [getattr(objective, term)(_Answer(output), batch) for output in outputs]

    return Objective(
        objective.name,
        lambda stack, batch: torch.stack(each("loss", stack, batch)),
        lambda stack, batch: torch.stack(each("score", stack, batch), 1),
    )


class _Answer(nn.Module):
    """A head that has answered already."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.output
