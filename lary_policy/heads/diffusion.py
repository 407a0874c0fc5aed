"""The diffusion process of the DiT expert: how noise is added and taken away."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_BETA = 0.999  # Nichol and Dhariwal, arXiv 2102.09672, section 3.2
_OFFSET = 0.008  # same place: keeps the first betas from vanishing
_LEAST_VARIANCE = 1e-20  # of the reverse process, as its square root is taken


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A DDPM (Ho et al., arXiv 2006.11239) with the squared-cosine schedule and fixed small variance.

    Attributes:
        kept: `[steps]` share of the signal's variance that is left at each step (alpha bar).
    """

    kept: Tensor

    @property
    def steps(self) -> int:
        """Number of steps of the process."""
        return len(self.kept)

    def add_noise(self, clean: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Return `clean` `[b ...]` as it is after `steps` `[b]` of the process, with the given noise."""
        kept = self.kept.to(clean.device)[steps].view(-1, *(1 for _ in clean.shape[1:]))
        return kept.sqrt() * clean + (1 - kept).sqrt() * noise

    def denoise(
        self, noisy: Tensor, noise: Tensor, step: int, previous: int, fresh: Tensor, clip: float | None
    ) -> Tensor:
        """Go back from `step` to `previous` (-1: the clean sample) by one draw of the reverse process.

        Args:
            noisy: `[b ...]` at `step`.
            noise: Predicted noise in it.
            step: Step of `noisy`.
            previous: Step to go to.
            fresh: Unit noise to add; not used if `step` is 0.
            clip: The predicted clean sample is cut to this range around 0; None leaves it.
        """
        kept, kept_before = (float(self.kept[i]) if i >= 0 else 1.0 for i in (step, previous))
        ratio = kept / kept_before
        clean = (noisy - math.sqrt(1 - kept) * noise) / math.sqrt(kept)
        if clip is not None:
            clean = clean.clamp(-clip, clip)
        of_clean = math.sqrt(kept_before) * (1 - ratio) / (1 - kept)
        of_noisy = math.sqrt(ratio) * (1 - kept_before) / (1 - kept)
        mean = of_clean * clean + of_noisy * noisy
        if step == 0:
            return mean
        variance = (1 - kept_before) / (1 - kept) * (1 - ratio)
        return mean + math.sqrt(max(variance, _LEAST_VARIANCE)) * fresh

    def reverse_steps(self, count: int) -> list[tuple[int, int]]:
        """Return (step, next lower step) of `count` evenly spaced steps, from noise to the clean sample."""
        stride = self.steps // count
        return [(i * stride, (i - 1) * stride) for i in reversed(range(count))]


@functools.cache
def squared_cosine(steps: int) -> NoiseSchedule:
    """Return the squared-cosine schedule of arXiv 2102.09672 (`squaredcos_cap_v2`) in float32."""

    def left(time: float) -> float:
        return math.cos((time + _OFFSET) / (1 + _OFFSET) * math.pi / 2) ** 2

    betas = [min(1 - left((i + 1) / steps) / left(i / steps), _MAX_BETA) for i in range(steps)]
    return NoiseSchedule(torch.cumprod(1 - torch.tensor(betas, dtype=torch.float32), 0))
