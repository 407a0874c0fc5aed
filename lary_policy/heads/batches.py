"""The dataset both heads train on: rows that point into one bank of frame latents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lary_policy.errors import ShapeError
from lary_policy.heads.pool import LatentShape
from lary_policy.heads.samplers import Share, balanced_order

# A bank up to this size is converted to the compute dtype once; a larger one stays float16 where it is and
# each batch is converted and moved.
RESIDENT_LIMIT_BYTES = 2 << 30
_CHECK_ROWS = 256


@dataclass(frozen=True)
class Batch:
    """Some rows of a `LatentBatches`.

    Attributes:
        latents: `[b t c n d]`.
        targets: Normalised actions `[b k a]` or class indices `[b]`.
        proprio: Normalised proprioception `[b p]` or None.
        share: Which part of a batch of several processes this is, or None for all of it.
    """

    latents: Tensor
    targets: Tensor
    proprio: Tensor | None = None
    share: Share | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Arguments of a head's forward."""
        return (self.latents,) if self.proprio is None else (self.latents, self.proprio)

    def draw(self, make: Callable[[int], Tensor]) -> Tensor:
        """Return `make(b)`, or this process's part of the numbers made for the whole batch."""
        return make(len(self.targets)) if self.share is None else self.share.draw(make)


@dataclass(frozen=True)
class LatentBatches:
    """N samples that share a bank of F frame latents; no pair of latents is ever stored twice.

    Attributes:
        bank: `[F n d]` latents, usually float16.
        index: int64 `[N t c]` rows of the bank, one for each frame and camera of a sample.
        targets: Normalised actions float `[N k a]`, or class indices int64 `[N]`.
        proprio: Normalised proprioception `[N p]` or None.
        device: Where batches are delivered.
        dtype: Floating dtype of delivered latents.

    Raises:
        ShapeError: Shapes do not fit, an index points outside the bank, or a number is not finite.
    """

    bank: Tensor
    index: Tensor
    targets: Tensor
    proprio: Tensor | None = None
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        _check_shapes(self)
        if self.index.numel() and not 0 <= int(self.index.min()) <= int(self.index.max()) < len(self.bank):
            raise ShapeError(
                expected=f"indices in 0..{len(self.bank) - 1}",
                got=f"{int(self.index.min())}..{int(self.index.max())}",
                fix="Build index and bank from the same latent table.",
            )
        for name, value in (("bank", self.bank), ("targets", self.targets), ("proprio", self.proprio)):
            _check_finite(name, value)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def latent_shape(self) -> LatentShape:
        """(t, c, n, d) of one sample."""
        _, frames, cameras = self.index.shape
        return (frames, cameras, self.bank.shape[1], self.bank.shape[2])

    def to(self, device: str, dtype: torch.dtype, limit_bytes: int = RESIDENT_LIMIT_BYTES) -> LatentBatches:
        """Return the same samples, delivered on `device` in `dtype`; small banks are converted once."""
        bank = self.bank
        if bank.numel() * dtype.itemsize <= limit_bytes:
            bank = bank.to(device=device, dtype=dtype)
        return replace(self, bank=bank, device=device, dtype=dtype)

    def gather(self, rows: Tensor, share: Share | None = None) -> Batch:
        """Return the samples `rows` (int64 `[b]`), or a share of them, as one batch."""
        rows = rows if share is None else rows[share.positions]
        picked = self.index[rows]
        flat = self.bank.flatten(1).index_select(0, picked.flatten().to(self.bank.device))
        latents = flat.to(self.device, self.dtype).view(*picked.shape, *self.bank.shape[1:])
        proprio = None if self.proprio is None else self.proprio[rows].to(self.device)
        return Batch(latents, self.targets[rows].to(self.device), proprio, share)

    def ordered(self, batch_size: int) -> Iterator[Batch]:
        """Yield all samples in order; the last batch may be smaller."""
        for rows in torch.arange(len(self)).split(batch_size):
            yield self.gather(rows)

    def shuffled(
        self, batch_size: int, generator: torch.Generator, *, balanced: bool = False
    ) -> Iterator[Batch]:
        """Yield one epoch in random order; the last batch may be smaller.

        Args:
            batch_size: Samples a batch.
            generator: CPU generator; the same state gives the same epoch.
            balanced: Draw with replacement so that every class is equally likely (protocol section 4.2).
        """
        order = self.order(generator, balanced=balanced)
        for rows in order.split(batch_size):
            yield self.gather(rows)

    def order(self, generator: torch.Generator, *, balanced: bool = False) -> Tensor:
        """Return the rows of one epoch in random order, int64 `[N]` (see `shuffled`)."""
        if balanced:
            return balanced_order(self.targets, int(torch.randint(1 << 31, (), generator=generator)))
        return torch.randperm(len(self), generator=generator)

    def digest(self) -> str:
        """Return a hash that other samples, or the same in another order, do not have.

        Targets and indices are read in full, the bank at 64 of its rows.
        """
        some = torch.linspace(0, len(self.bank) - 1, 64).long()
        picked = self.bank[some.to(self.bank.device)]
        digest = hashlib.sha256(f"{tuple(self.bank.shape)} {tuple(self.targets.shape)}".encode())
        for part in (picked.float(), self.index, self.targets, self.proprio):
            if part is not None:
                digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def _check_shapes(samples: LatentBatches) -> None:
    rows = samples.index.shape[0] if samples.index.dim() else -1
    lengths = [len(v) for v in (samples.targets, samples.proprio) if v is not None]
    fits = samples.bank.dim() == 3 and samples.index.dim() == 3 and all(n == rows for n in lengths)
    if not fits or samples.index.dtype != torch.int64:
        raise ShapeError(
            expected="bank [F n d], int64 index [N t c], targets [N ...] and proprio [N p]",
            got=f"bank {tuple(samples.bank.shape)}, index {tuple(samples.index.shape)} of "
            f"{samples.index.dtype}, targets and proprio of length {lengths}",
            fix="Give one row of index, targets and proprio for each sample.",
        )


def _check_finite(name: str, value: Tensor | None) -> None:
    if value is None or not value.is_floating_point():
        return
    for start in range(0, len(value), _CHECK_ROWS):
        chunk = value[start : start + _CHECK_ROWS]
        if not torch.isfinite(chunk).all():
            bad = torch.nonzero(~torch.isfinite(chunk.flatten(1)).all(1)).flatten() + start
            raise ShapeError(
                expected=f"finite numbers in {name}",
                got=f"non-finite rows {bad[:8].tolist()}",
                fix="Run `lary data verify`, or store latents as bfloat16 if they exceed float16's 65504.",
            )
