"""Codebooks: the nearest code of a vector, and whether a codebook is used at all."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lary_policy.errors import ShapeError


def nearest_codes(vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest of codes [K d] for each vector [... d], and its index [...].

    Of two equally near codes the one with the smaller index is taken.
    """
    # float32, because cdist has no half-precision kernel on every device.
    distances = torch.cdist(vectors.flatten(0, -2).float(), codes.float())
    indices = distances.argmin(-1).view(vectors.shape[:-1])
    return codes[indices], indices


class NearestCode(nn.Module):
    """Quantises vectors [... d] by a table of codes.

    Args:
        codes: Entries.
        width: Width d.
        name: What checkpoints call the table.
    """

    def __init__(self, codes: int, width: int, name: str) -> None:
        super().__init__()
        self.add_module(name, nn.Embedding(codes, width))
        nn.init.uniform_(self.codes, -1 / codes, 1 / codes)

    @property
    def codes(self) -> Tensor:
        """The table [K d]."""
        return next(self.parameters())

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest code vectors [... d] and their indices [...]."""
        return nearest_codes(vectors, self.codes)


@dataclass(frozen=True)
class CodebookHealth:
    """How evenly a codebook is used."""

    codes: int  # entries of the codebook
    tokens: int  # tokens that were quantised
    used: int  # entries that at least one token became
    # Exponential of the entropy of the usage: `codes` when all are used alike, 1 when one is used alone, 0
    # without a token
    perplexity: float
    dead: tuple[int, ...]  # entries that no token became
    counts: tuple[int, ...]  # tokens of each entry

    @property
    def usage(self) -> float:
        """Used share of the entries, 0 to 1."""
        return self.used / self.codes

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict, `usage` included."""
        return {**asdict(self), "usage": self.usage, "dead": list(self.dead), "counts": list(self.counts)}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> CodebookHealth:
        """Rebuild from `to_dict`."""
        return codebook_health_of_counts(row["counts"])

    def __str__(self) -> str:
        return f"{self.used} of {self.codes} codes used, perplexity {self.perplexity:.1f}"


class CodebookCounter:
    """Counts the use of a codebook of `codes` entries, batch by batch."""

    def __init__(self, codes: int) -> None:
        if codes < 1:
            raise ShapeError(
                expected="a codebook of at least one code", got=str(codes), fix="Check the spec's codebook."
            )
        self._counts = torch.zeros(codes, dtype=torch.int64)

    def update(self, indices: Tensor) -> None:
        """Count codes (integers of any shape, on any device).

        Raises:
            ShapeError: A code lies outside the codebook, or the codes are no integers.
        """
        flat = indices.detach().flatten().cpu()
        codes = len(self._counts)
        if flat.is_floating_point() or (len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < codes):
            raise ShapeError(
                expected=f"integer codes in 0..{codes - 1}",
                got=f"{indices.dtype} from {flat.min()} to {flat.max()}",
                fix="Pass the indices of this codebook.",
            )
        self._counts += torch.bincount(flat, minlength=codes)

    def health(self) -> CodebookHealth:
        """Return how the codebook was used so far."""
        return codebook_health_of_counts(self._counts.tolist())


def codebook_health(indices: Tensor, codes: int) -> CodebookHealth:
    """Return how evenly `indices` (integers of any shape) use a codebook of `codes` entries.

    Raises:
        ShapeError: See `CodebookCounter`.
    """
    counter = CodebookCounter(codes)
    counter.update(indices)
    return counter.health()


def codebook_health_of_counts(counts: list[int]) -> CodebookHealth:
    """Return the health of a codebook of which each entry's tokens are known."""
    tokens = sum(counts)
    shares = [count / tokens for count in counts if count]
    return CodebookHealth(
        codes=len(counts),
        tokens=tokens,
        used=len(shares),
        perplexity=math.exp(-sum(p * math.log(p) for p in shares)) if tokens else 0.0,
        dead=tuple(code for code, count in enumerate(counts) if not count),
        counts=tuple(counts),
    )
