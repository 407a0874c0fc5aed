"""Codebooks trained by gradients: the loss of a nearest code, and what becomes of codes without use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lary_policy.encoders import NearestCode

# Weight of what draws vectors to their codes beside what draws codes to vectors: `vq_beta` of UniVLA's
# configurations, `beta` of villa-X's quantiser; both are those of VQ-VAE (arXiv:1711.00937).
COMMITMENT = 0.25
# Codes that fewer than this part of so many steps used are replaced. UniVLA looks once an epoch, for codes
# without any use; here an epoch of random pairs is nothing, and a training on two cores a thousand steps.
REPLACE_EVERY, LEAST_USE = 20, 0.1
# New codes lie so far from their models, in standard deviations of the codes in use: of two equal codes the
# second would never be the nearest. UniVLA's are equal.
_APART = 0.3


def straight_through(book: NearestCode, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise vectors [p s q] with a gradient for both sides.

    Returns:
        The codes [p s q], through which gradients pass to the vectors; their indices [p s]; and the loss that
        draws codes to vectors and, `COMMITMENT` times, vectors to codes.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        vectors = vectors.float()
        codes, indices = book(vectors)
        loss = F.mse_loss(codes, vectors.detach()) + COMMITMENT * F.mse_loss(vectors, codes.detach())
        return vectors + (codes - vectors).detach(), indices, loss


class CodeUpkeep(nn.Module):
    """Counts which codes are used, and replaces those that are not by neighbours of those that are."""

    def __init__(self, codes: int) -> None:
        super().__init__()
        self.register_buffer("steps_used", torch.zeros(codes))
        self.steps_used: Tensor

    def tend(self, codes: Tensor, step: int, used: Tensor, seed: int) -> int:
        """Replace in place what is due of codes [K q]; for the arguments see `LamModule.tend`."""
        self.steps_used += used.to(self.steps_used)
        if not step or step % REPLACE_EVERY:
            return 0
        kept = self.steps_used >= LEAST_USE * REPLACE_EVERY
        self.steps_used.zero_()
        lost = int((~kept).sum())
        if not lost or not kept.any():
            return 0
        generator = torch.Generator().manual_seed(seed)
        models = codes[kept]
        chosen = models[torch.randint(len(models), (lost,), generator=generator)]
        noise = torch.randn(chosen.shape, generator=generator).to(chosen)
        codes[~kept] = chosen + _APART * models.std(correction=0) * noise
        return lost
