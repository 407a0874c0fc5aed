"""What heads train on: rows that point into one bank of latents."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lary_policy.errors import ShapeError
from lary_policy.heads.objective import Batch, Share
from lary_policy.heads.pool import LatentShape
from lary_policy.machine import made_ahead, scratch

# A bank up to this size is moved to the GPU once; each batch of a larger one is moved when its turn comes. On
# the CPU banks stay as they are, whoever shares them: to widen a batch takes no longer than to read it wide.
RESIDENT_LIMIT_BYTES = 2 << 30
# Latents of a batch that is only evaluated; more would be no faster. On a CPU what a head makes of a larger
# one leaves the cache, and of 512 pairs of DINOv2 an attentive head takes a gigabyte.
_EVAL_BYTES, _EVAL_ROWS = {"cpu": 32 << 20, "cuda": 256 << 20}, 512
_CHECK_ROWS = 256
_PIECE = 1 << 20  # numbers that are converted at once: they stay in the cache on their way
_READERS = 2  # threads that read batches from disk: one waits for the disk while the other unpacks


class LatentBank(Protocol):
    """Latents `[F n d]` that are not in memory; indexing reads them, from several threads at once.

    Attributes:
        shape: (F, n, d).
        dtype: Of what is read.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Tensor:
        """Return the latents `[... n d]` of an index `[...]`."""
        ...


@dataclass(frozen=True)
class LatentBatches:
    """N samples that share a bank of F frame latents; no pair of latents is ever stored twice.

    Attributes:
        bank: `[F n d]` latents, usually float16, in memory or to be read when they are needed.
        index: int64 `[N t c]` rows of the bank, one for each frame and camera of a sample.
        targets: Normalised actions float `[N k a]`, or class indices int64 `[N]`.
        proprio: Normalised proprioception `[N p]` or None.
        device: Where batches are delivered.
        dtype: Floating dtype of delivered latents.

    Raises:
        ShapeError: Shapes do not fit, an index points outside the bank, or a number is not finite.
    """

    bank: Tensor | LatentBank
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
        # A store holds finite numbers only; those in memory may come from anywhere.
        bank = self.bank if isinstance(self.bank, Tensor) else None
        for name, value in (("bank", bank), ("targets", self.targets), ("proprio", self.proprio)):
            _check_finite(name, value)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def latent_shape(self) -> LatentShape:
        """(t, c, n, d) of one sample."""
        _, frames, cameras = self.index.shape
        return (frames, cameras, self.bank.shape[1], self.bank.shape[2])

    def to(self, device: str, dtype: torch.dtype, limit_bytes: int = RESIDENT_LIMIT_BYTES) -> LatentBatches:
        """Return the same samples, delivered on `device` in `dtype`; a small bank is moved to a GPU once."""
        bank = self.bank
        on_cpu = torch.device(device).type == "cpu"
        if isinstance(bank, Tensor) and not on_cpu and bank.numel() * dtype.itemsize <= limit_bytes:
            bank = bank.to(device=device, dtype=dtype)
        other = copy.copy(self)  # what was checked is not checked again
        for name, value in (("bank", bank), ("device", device), ("dtype", dtype)):
            object.__setattr__(other, name, value)
        return other

    def gather(self, rows: Tensor, share: Share | None = None) -> Batch:
        """Return the samples `rows` (int64 `[b]`), or a share of them, as one batch."""
        rows = rows if share is None else rows[share.positions]
        picked = self.index[rows]
        latents = self._delivered(picked.flatten()).view(*picked.shape, *self.bank.shape[1:])
        proprio = None if self.proprio is None else self.proprio[rows].to(self.device)
        return Batch(latents, self.targets[rows].to(self.device), proprio, share)

    def ahead[T](self, orders: Iterable[Tensor], make: Callable[[Tensor], T]) -> Iterator[T]:
        """Yield `make(rows)` of each batch of rows in order.

        Where latents come from disk, or from memory that the device does not share, threads make the next
        batches meanwhile; at most `_READERS` and the one in use exist at once.
        """
        resident = isinstance(self.bank, Tensor) and self.bank.device.type == torch.device(self.device).type
        return made_ahead(orders, make, 0 if resident else _READERS)

    def ordered(self, batch_size: int) -> Iterator[Batch]:
        """Yield all samples in order; the last batch may be smaller."""
        return self.ahead(torch.arange(len(self)).split(batch_size), self.gather)

    def evaluation_rows(self) -> tuple[Tensor, ...]:
        """Return all rows in order, in batches of a size that is good for evaluation and fits in memory."""
        sample = math.prod(self.latent_shape) * self.dtype.itemsize
        limit = _EVAL_BYTES[torch.device(self.device).type]
        return torch.arange(len(self)).split(max(1, min(_EVAL_ROWS, limit // sample)))

    def _picked(self, rows: Tensor) -> Tensor:
        """Return rows of the bank where it is."""
        if not isinstance(self.bank, Tensor):
            return self.bank[rows]
        return self.bank.flatten(1).index_select(0, rows.to(self.bank.device))

    def _delivered(self, rows: Tensor) -> Tensor:
        """Bring rows of the bank to the device, converted there: what is stored is smaller."""
        if torch.device(self.device).type != "cpu" or self.bank.dtype == self.dtype:
            latents = self._picked(rows)
            if latents.device.type != torch.device(self.device).type:
                latents = latents.pin_memory().to(self.device, non_blocking=True)
            return latents.to(self.dtype)
        if isinstance(self.bank, Tensor):
            return _converted(self.bank.flatten(1), rows, self.dtype)
        latents = self._picked(rows).flatten(1)
        return _converted(latents, torch.arange(len(latents)), self.dtype)

    def shuffled(
        self, batch_size: int, generator: torch.Generator, *, balanced: bool = False
    ) -> Iterator[Batch]:
        """Return one epoch in random order; the last batch may be smaller.

        Args:
            batch_size: Samples a batch.
            generator: CPU generator; the same state gives the same epoch.
            balanced: Draw with replacement so that every class is equally likely (protocol section 4.2).
        """
        return self.ahead(self.order(generator, balanced=balanced).split(batch_size), self.gather)

    def order(self, generator: torch.Generator, *, balanced: bool = False) -> Tensor:
        """Return the rows of one epoch in random order, int64 `[N]` (see `shuffled`)."""
        if balanced:
            return balanced_order(self.targets, int(torch.randint(1 << 31, (), generator=generator)))
        return torch.randperm(len(self), generator=generator)

    def digest(self) -> str:
        """Return a hash that other samples, or the same in another order, do not have.

        Targets and indices are read in full, the bank at 64 of its rows.
        """
        picked = self._picked(torch.linspace(0, len(self.bank) - 1, 64).long())
        digest = hashlib.sha256(f"{tuple(self.bank.shape)} {tuple(self.targets.shape)}".encode())
        for part in (picked.float(), self.index, self.targets, self.proprio):
            if part is not None:
                digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def _converted(bank: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Return rows of a bank `[F m]` on the CPU in another dtype.

    PyTorch converts one kind of 16 bits to the other number by number. By way of float32, which changes no
    number, it takes a quarter of that time.
    """
    out = torch.empty((len(rows), bank.shape[1]), dtype=dtype)
    count = max(1, _PIECE // bank.shape[1])
    for part, place in zip(rows.split(count), out.split(count), strict=True):
        size = place.numel()
        piece = scratch("piece", size * bank.dtype.itemsize).view(bank.dtype).view(place.shape)
        torch.index_select(bank, 0, part, out=piece)
        if bank.dtype.itemsize == dtype.itemsize:
            piece = scratch("wide", 4 * size).view(torch.float32).view(place.shape).copy_(piece)
        place.copy_(piece)
    return out


def balanced_order(targets: Tensor, seed: int) -> Tensor:
    """Draw as many samples as there are, with replacement and every class equally likely.

    The draw of the reference, number by number: weights 1 / count of the class from NumPy's generator seeded
    with seed plus epoch (protocol section 4.2).

    Args:
        targets: Class of each sample, int64 `[N]`.
        seed: Of the draw.

    Raises:
        ShapeError: Targets are not class indices.
    """
    if targets.is_floating_point():
        raise ShapeError(
            expected="class indices as targets for balanced sampling",
            got=f"{targets.dtype} targets",
            fix="Set head.train.balanced: false for a regression head.",
        )
    classes = targets.cpu().numpy()
    present, counts = np.unique(classes, return_counts=True)
    weights = (1.0 / (counts * len(present)))[np.searchsorted(present, classes)]
    drawn = np.random.default_rng(seed).choice(len(classes), len(classes), p=weights / weights.sum())
    return torch.from_numpy(drawn)


def _check_shapes(samples: LatentBatches) -> None:
    rows = samples.index.shape[0] if samples.index.dim() else -1
    lengths = [len(v) for v in (samples.targets, samples.proprio) if v is not None]
    fits = len(samples.bank.shape) == 3 and samples.index.dim() == 3 and all(n == rows for n in lengths)
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
        # NaN and infinities reach the extremes, which takes a tenth of the time of looking at each value.
        if chunk.numel() and not torch.stack(torch.aminmax(chunk)).isfinite().all():
            bad = torch.nonzero(~torch.isfinite(chunk.flatten(1)).all(1)).flatten() + start
            raise ShapeError(
                expected=f"finite numbers in {name}",
                got=f"non-finite rows {bad[:8].tolist()}",
                fix="Run `lary data verify`, or pass latents_dtype=float32 if latents exceed 65504.",
            )
