"""One pass over the train split and one over the val split, for a head or all heads of a sweep."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from lary_policy.errors import ConfigError
from lary_policy.heads.config import TrainConfig
from lary_policy.heads.objective import Batch, Objective, share_of, shares_of
from lary_policy.heads.training.batches import LatentBatches, balanced_order
from lary_policy.heads.training.check import require_heads_like_cpu
from lary_policy.heads.training.step import RecordedStep, Shares
from lary_policy.heads.training.workers import Workers, open_workers
from lary_policy.machine import autocast, leave_if_asked, resolve_precision

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


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Return the learning rate of step 0..total-1 (see `learning_rate_factor`)."""
    return config.lr * learning_rate_factor(step, total, config)


def learning_rate_factor(step: int, total: int, config: TrainConfig) -> float:
    """Return the learning rate of step 0..total-1 over its peak.

    Warm-up is linear from 0 over int(warmup_fraction * total) steps (protocol section 5.3). `constant` stays
    there; `cosine` ends at exactly 0, as the reference steps its schedule before each iteration (4.2).
    """
    warmup = int(config.warmup_fraction * total)
    if step < warmup:
        return step / warmup
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step + 1 - warmup) / (total - warmup)))


@dataclass(frozen=True, eq=False)
class Member:
    """A head and what updates it.

    Attributes:
        module: The head.
        wrapped: The same with gradients averaged over processes.
        optimiser: One group: all its parameters.
        peak: Learning rate before the schedule.
        rate: On CUDA the learning rate as a number on the device, which recorded steps read.
    """

    module: nn.Module
    wrapped: nn.Module
    optimiser: torch.optim.AdamW
    peak: float
    rate: Tensor | None

    @classmethod
    def create(cls, module: nn.Module, setting: tuple[float, float], workers: Workers) -> Member:
        """Make the optimiser from (lr, weight decay)."""
        lr, decay = setting
        on_cuda = torch.device(workers.device).type == "cuda"
        rate = torch.tensor(lr, device=workers.device) if on_cuda else None
        optimiser = torch.optim.AdamW(
            module.parameters(),
            lr=lr if rate is None else rate,
            weight_decay=decay,
            fused=True,
            capturable=on_cuda,
        )
        return cls(module, workers.wrap(module), optimiser, lr, rate)

    def set_rate(self, factor: float) -> None:
        """Set the learning rate to a part of the peak."""
        (group,) = self.optimiser.param_groups
        group["lr"] = self.peak * factor if self.rate is None else self.rate.fill_(self.peak * factor)


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """What stays the same over a training run.

    Attributes:
        parts: The head, or the heads of a sweep.
        train_set: Delivered in the precision of training.
        val_set: Delivered in the precision of validation.
        objective: Loss and selection score of one head.
        config: Settings.
        workers: Processes.
        generator: Order of samples.
    """

    parts: tuple[Member, ...]
    train_set: LatentBatches
    val_set: LatentBatches
    objective: Objective
    config: TrainConfig
    workers: Workers
    generator: torch.Generator

    @property
    def members(self) -> tuple[nn.Module, ...]:
        """The heads."""
        return tuple(part.module for part in self.parts)

    @classmethod
    def create(
        cls,
        head: nn.Module,
        train_set: LatentBatches,
        val_set: LatentBatches,
        objective: Objective,
        config: TrainConfig,
    ) -> TrainingRun:
        """Move head and samples to the device and make the optimisers.

        Raises:
            ConfigError: There is not one (lr, weight decay) for each head.
            DeviceError: Heads answer otherwise on a GPU than on the CPU.
        """
        members = members_of(head)
        if len(members) != len(config.members):
            raise ConfigError(
                expected=f"one (lr, weight decay) for each of {len(members)} heads",
                got=f"{len(config.members)}",
                fix="Build the head with `fit`, or set head.train.sweep to one pair a head.",
            )
        workers = open_workers(config.device)
        head.to(workers.device)
        job = cls(
            tuple(Member.create(m, pair, workers) for m, pair in zip(members, config.members, strict=True)),
            train_set.to(workers.device, resolve_precision(config.precision, workers.device)),
            val_set.to(
                workers.device, resolve_precision(config.val_precision or config.precision, workers.device)
            ),
            objective,
            config,
            workers,
            torch.Generator().manual_seed(config.seed),
        )
        if torch.device(workers.device).type == "cuda" and objective.recordable:
            require_heads_like_cpu(members, job.val_set)
        return job

    def close(self) -> None:
        """Forget the step, which knows this run: the samples are free as soon as nobody uses them."""
        vars(self).pop("step", None)

    @cached_property
    def step(self) -> Callable[[Shares, int], Tensor]:
        """Update all heads with a batch and return the loss of each `[s]` on this process's share of it.

        The seed gives each step noise of its own, the same for all heads and shares.
        """
        updates = [partial(_update, self, part) for part in self.parts]
        on_cuda, still = torch.device(self.workers.device).type == "cuda", self.objective.recordable
        if on_cuda and self.workers.count == 1 and still:
            return RecordedStep(updates, self.workers.device)
        return lambda batch, seed: torch.stack([update(batch, None if still else seed) for update in updates])


def train_epoch(job: TrainingRun, epoch: int) -> tuple[list[float], float, list[int]]:
    """Run one epoch; return each head's mean loss, the last factor of the rates, and steps left out."""
    config, samples = job.config, job.train_set
    order = (
        balanced_order(samples.targets, config.seed + epoch - 1)  # the reference seeds each epoch anew
        if config.balanced
        else samples.order(job.generator)
    )
    batches = order.split(config.batch_size)
    losses, factor = [], 0.0
    for part in job.parts:
        part.module.train()
    read = samples.ahead(batches, lambda rows: list(_shares(job, rows)))
    for step, batch in enumerate(read, start=(epoch - 1) * len(batches)):
        leave_if_asked()
        factor = learning_rate_factor(step, config.epochs * len(batches), config)
        for part in job.parts:
            part.set_rate(factor)
        losses.append(job.step(batch, _step_seed(config.seed, step)))
    every = job.workers.mean(torch.stack(losses).double())
    if len(job.parts) == 1:
        return every.mean(0).tolist(), factor, [0]
    finite = torch.isfinite(every)
    means = every.nan_to_num(0, 0, 0).sum(0) / finite.sum(0)
    return means.tolist(), factor, (~finite).sum(0).tolist()


def _shares(job: TrainingRun, rows: Tensor) -> Iterator[tuple[Batch, float]]:
    """Yield this process's part of a batch, in micro batches, with the weight of each."""
    workers = job.workers
    for share in shares_of(len(rows), workers.rank, workers.count, job.config.micro_batch):
        whole = len(share.positions) == len(rows)
        yield job.train_set.gather(rows, None if whole else share), share.weight


def _update(job: TrainingRun, part: Member, batch: Shares, seed: int | None) -> Tensor:
    """Update one head; return its loss. The seed is None if nothing is drawn at random."""
    config, optimiser = job.config, part.optimiser
    optimiser.zero_grad(set_to_none=True)
    losses = []
    for micro, weight in batch:
        if seed is not None:
            torch.manual_seed(seed)
        with autocast(job.train_set.device, job.train_set.dtype):
            loss = job.objective.loss(part.wrapped, micro) * weight
        loss.backward()
        losses.append(loss.detach())
    total = torch.stack(losses).sum()
    if config.grad_clip is not None:
        nn.utils.clip_grad_norm_(part.module.parameters(), config.grad_clip)
    if len(job.parts) == 1:  # a head on its own goes on and is refused after the epoch
        optimiser.step()
        return total
    finite = job.workers.mean(torch.isfinite(total).float())
    optimiser.found_inf = (finite < 1).float()  # type: ignore[attr-defined]  # such a step changes nothing
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)  # room for the gradients of the next head
    return total


@torch.inference_mode()
def mean_scores(
    parts: Sequence[nn.Module],
    samples: LatentBatches,
    objective: Objective,
    precision: torch.dtype,
    workers: Workers,
) -> Tensor:
    """Return the mean score of each head `[s]` in float64; every sample counts once in all processes."""

    def read(rows: Tensor) -> tuple[Batch, float]:
        share = share_of(len(rows), workers.rank, workers.count)
        return samples.gather(rows, None if workers.count == 1 else share), share.weight

    for part in parts:
        part.eval()
    sums = []
    with autocast(samples.device, precision):
        for batch, weight in samples.ahead(samples.evaluation_rows(), read):
            scores = [objective.score(part, batch).reshape(len(batch.targets), -1) for part in parts]
            sums.append(torch.cat(scores, 1).double().sum(0) * (weight > 0))
    return workers.mean(torch.stack(sums).sum(0)) * workers.count / len(samples)


def _step_seed(seed: int, step: int) -> int:
    """Return a seed of its own for the random numbers of each step, so that a run can go on anywhere."""
    return (seed * 0x9E3779B97F4A7C15 + step) % (1 << 63)  # golden ratio: neighbouring seeds end up far apart
