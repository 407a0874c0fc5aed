"""Principal components of latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lary_policy.errors import DatasetError
from lary_policy.latents.bank import Bank

COMPONENTS = 64  # of 1,000 rows they hold most of what varies; many more would be noise of single rows
_ROWS = 256  # latents read at once
_FITTED = (
    2000  # latents that components are fitted on, at most: 2 s, and each component of ten latents or more
)


@dataclass(frozen=True)
class Components:
    """Principal components of latents.

    Attributes:
        mean: `[D]`, float32.
        axes: Orthonormal columns `[D p]`.
        share: Part of the training latents' variance that they hold.
    """

    mean: Tensor
    axes: Tensor
    share: float

    @classmethod
    def fit(cls, latents: Tensor, count: int = COMPONENTS) -> Components:
        """Return the first components of `[N D]`, fewer where they span fewer, from the N x N products."""
        mean = latents.mean(0)
        centred = (latents - mean).double()
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        kept = [i for i in reversed(range(len(values))) if values[i] > 1e-9 * values[-1]][:count]
        if not kept:
            raise DatasetError(
                expected="latents that differ between frames",
                got=f"{len(latents)} equal ones",
                fix="Check the encoder: it ignores its input.",
            )
        axes = centred.T @ vectors[:, kept] / values[kept].sqrt()
        return cls(mean, axes.float(), float(values[kept].sum() / values.clamp(min=0).sum()))

    def of(self, latents: Tensor) -> Tensor:
        """Return the components `[N p]` of latents `[N D]`."""
        return (latents - self.mean) @ self.axes

    @classmethod
    def of_bank(cls, bank: Bank, count: int) -> Components:
        """Return `count` components of latents `[F n d]`, of evenly spaced ones where there are many.

        Raises:
            DatasetError: The latents do not span so many.
        """
        places = torch.linspace(0, len(bank) - 1, min(len(bank), _FITTED)).long().unique()
        found = cls.fit(torch.cat([bank[some].flatten(1).float() for some in places.split(_ROWS)]), count)
        if found.axes.shape[1] < count:
            raise DatasetError(
                expected=f"training latents that span {count} components",
                got=f"{len(places)} latents that span {found.axes.shape[1]}",
                fix=f"Use components={found.axes.shape[1]} or fewer, or more demonstrations.",
            )
        return found

    def of_all(self, bank: Bank) -> Tensor:
        """Return the components `[F 1 p]` of latents `[F n d]`."""
        rows = torch.arange(len(bank)).split(_ROWS)
        return torch.cat([self.of(bank[some].flatten(1).float()) for some in rows]).unsqueeze(1)
