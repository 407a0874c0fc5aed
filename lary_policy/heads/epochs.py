"""One pass over the train split and one over the val split, for a head or all heads of a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lary_policy.errors import ConfigError
from lary_policy.heads.batches import Batch, LatentBatches
from lary_policy.heads.class_sweep import HeadStack, members_of, stacked_objective
from lary_policy.heads.config import TrainConfig
from lary_policy.heads.objective import Objective
from lary_policy.heads.precision import autocast, resolve_precision
from lary_policy.heads.samplers import balanced_order, share_of, shares_of
from lary_policy.heads.schedules import learning_rate_factor
from lary_policy.heads.workers import Workers, open_workers

# Tokens of a batch up to which the heads of a sweep are computed at once on CUDA: below, starting kernels
# costs more than their work; above, one head fills the GPU, and all at once would keep all activations.
_STACKED_TOKENS = 1 << 16


@dataclass(frozen=True, eq=False)
class Part:
    """What is computed and stepped at once: a head, or on CUDA all heads of a sweep.

    Attributes:
        module: The head or the stack.
        wrapped: The same with gradients averaged over processes.
        optimiser: One group of parameters a head.
        rates: Peak learning rate of each head.
    """

    module: nn.Module
    wrapped: nn.Module
    optimiser: torch.optim.AdamW
    rates: tuple[float, ...]

    @classmethod
    def create(cls, module: nn.Module, settings: Sequence[tuple[float, float]], workers: Workers) -> Part:
        """Make the optimiser from the (lr, weight decay) of each head."""
        pairs = zip(members_of(module), settings, strict=True)
        groups = [
            {"params": list(m.parameters()), "lr": lr, "weight_decay": decay} for m, (lr, decay) in pairs
        ]
        optimiser = torch.optim.AdamW(groups, fused=True)
        return cls(module, workers.wrap(module), optimiser, tuple(lr for lr, _ in settings))

    @property
    def is_stack(self) -> bool:
        """Whether it is several heads."""
        return isinstance(self.module, HeadStack)


@dataclass(frozen=True, eq=False)
class Job:
    """What stays the same over a training run.

    Attributes:
        members: The head, or the heads of a sweep.
        parts: How they are computed.
        train_set: Delivered in the precision of training.
        val_set: Delivered in the precision of validation.
        objective: Of a part.
        config: Settings.
        workers: Processes.
        generator: Order of samples.
    """

    members: tuple[nn.Module, ...]
    parts: tuple[Part, ...]
    train_set: LatentBatches
    val_set: LatentBatches
    objective: Objective
    config: TrainConfig
    workers: Workers
    generator: torch.Generator

    @classmethod
    def create(
        cls,
        head: nn.Module,
        train_set: LatentBatches,
        val_set: LatentBatches,
        objective: Objective,
        config: TrainConfig,
    ) -> Job:
        """Move head and samples to the device and make the optimisers.

        Raises:
            ConfigError: There is not one (lr, weight decay) for each head.
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
        on_cuda = torch.device(workers.device).type == "cuda"
        if len(members) > 1 and on_cuda and objective.plain and _few_tokens(train_set, config):
            parts = [Part.create(head, config.members, workers)]
            objective = stacked_objective(objective)
        else:
            parts = [Part.create(m, [pair], workers) for m, pair in zip(members, config.members, strict=True)]
        return cls(
            members,
            tuple(parts),
            train_set.to(workers.device, resolve_precision(config.precision, workers.device)),
            val_set.to(
                workers.device, resolve_precision(config.val_precision or config.precision, workers.device)
            ),
            objective,
            config,
            workers,
            torch.Generator().manual_seed(config.seed),
        )


def _few_tokens(samples: LatentBatches, config: TrainConfig) -> bool:
    """Return whether a batch is so small that heads do not fill a GPU one by one."""
    frames, cameras, tokens, _ = samples.latent_shape
    batch = min(config.batch_size, config.micro_batch or config.batch_size)
    return batch * frames * cameras * tokens <= _STACKED_TOKENS


def train_epoch(job: Job, epoch: int) -> tuple[list[float], float, list[int]]:
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
        factor = learning_rate_factor(step, config.epochs * len(batches), config)
        seed = _step_seed(config.seed, step)
        losses.append(torch.cat([_step(job, part, batch, factor, seed) for part in job.parts]))
    every = job.workers.mean(torch.stack(losses).double())
    if len(job.members) == 1:
        return every.mean(0).tolist(), factor, [0]
    finite = torch.isfinite(every)
    means = every.nan_to_num(0, 0, 0).sum(0) / finite.sum(0)
    return means.tolist(), factor, (~finite).sum(0).tolist()


def _shares(job: Job, rows: Tensor) -> Iterator[tuple[Batch, float]]:
    """Yield this process's part of a batch, in micro batches, with the weight of each."""
    workers = job.workers
    for share in shares_of(len(rows), workers.rank, workers.count, job.config.micro_batch):
        whole = len(share.positions) == len(rows)
        yield job.train_set.gather(rows, None if whole else share), share.weight


def _step(job: Job, part: Part, batch: list[tuple[Batch, float]], factor: float, seed: int) -> Tensor:
    """Update the heads of a part; return the loss of each `[s]` on this process's share of the batch."""
    part.optimiser.zero_grad(set_to_none=True)
    losses = []
    for micro, weight in batch:
        torch.manual_seed(seed)  # noise of its own for each step, the same for all heads and shares
        with autocast(job.train_set.device, job.train_set.dtype):
            loss = job.objective.loss(part.wrapped, micro).reshape(-1) * weight
        loss.sum().backward()
        losses.append(loss.detach())
    total = torch.stack(losses).sum(0)
    if len(job.members) > 1:
        _leave_out(part, job.workers.mean(torch.isfinite(total).float()))
    for group, rate in zip(part.optimiser.param_groups, part.rates, strict=True):
        group["lr"] = rate * factor
        if job.config.grad_clip is not None:
            nn.utils.clip_grad_norm_(group["params"], job.config.grad_clip)
    part.optimiser.step()
    if len(job.members) > 1:
        part.optimiser.zero_grad(set_to_none=True)  # room for the gradients of the next head
    return total


def _leave_out(part: Part, finite: Tensor) -> None:
    """Drop the gradients of heads whose loss is not finite (`[s]` below 1) in some process.

    Of a sweep such a head leaves the step out; a head on its own goes on and is refused after the epoch.
    """
    for group, share in zip(part.optimiser.param_groups, finite.tolist(), strict=True):
        if share < 1:
            for parameter in group["params"]:
                parameter.grad = None


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
