"""Several heads trained side by side on the same batches: LARYBench's sweep of learning rates."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

# (lr, weight decay) of the reference's five heads (protocol section 4.2); the paper names the first four.
REFERENCE_SWEEP = ((5e-3, 0.01), (3e-3, 0.1), (1e-3, 0.4), (3e-4, 0.8), (1e-4, 0.01))


class HeadStack(nn.Module):
    """Heads of one architecture that are trained on the same batches, read and moved once for all of them.

    Args:
        heads: The heads; they keep their own weights.
    """

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)


def members_of(head: nn.Module) -> tuple[nn.Module, ...]:
    """Return the heads of a stack, or the head itself."""
    return tuple(head.heads) if isinstance(head, HeadStack) else (head,)
