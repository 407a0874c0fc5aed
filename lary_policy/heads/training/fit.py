"""From the description of a head to a trained one: the call that runs make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lary_policy.errors import ShapeError, TrainingError
from lary_policy.heads.config import TrainConfig, require_fit
from lary_policy.heads.files import HeadMeta, build_head, count_parameters
from lary_policy.heads.objective import Objective
from lary_policy.heads.registry import Head, head_kind
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.heads.training.epoch import HeadStack, members_of
from lary_policy.heads.training.loggers import MetricLogger
from lary_policy.heads.training.loop import train
from lary_policy.heads.training.resume import EpochRecord, TrainResult
from lary_policy.machine import free_memory, kept_heap

# Of float32 weight, gradient, two moments of Adam and the best weight so far; and a bfloat16 copy at work.
_BYTES_A_PARAMETER = 22
_MEMBER_SEEDS = 1 << 20  # heads of one sweep start apart, and apart from those of the next run's seed


def fit(
    meta: HeadMeta,
    train_set: LatentBatches,
    val_set: LatentBatches,
    config: TrainConfig,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    *,
    objective: Objective | None = None,
    checkpoint: Path | None = None,
    loggers: Sequence[MetricLogger] = (),
) -> tuple[Head, TrainResult]:
    """Build and train a head, or the heads of a sweep, and return the selected one in eval mode.

    Args:
        meta: Description of the head.
        train_set: Samples to learn from.
        val_set: Samples to choose epoch and head by.
        config: Optimiser, schedule, sweep, seed, precision, device.
        on_epoch: Called after each epoch.
        objective: Loss and selection score; that of the kind of head by default.
        checkpoint: File written after each epoch, from which an interrupted run goes on.
        loggers: Where the history also goes.

    Raises:
        HeadMismatchError: This kind of head cannot answer the question.
        ShapeError: Samples are not as `meta` says.
        TrainingError: See `train`; or the memory is too little for so many parameters.
    """
    require_fit(meta.model, meta.mode)
    for name, samples in (("train", train_set), ("val", val_set)):
        _require_samples_of(meta, name, samples)
    if torch.device(config.device).type == "cpu":
        _require_memory(meta, max(1, len(config.sweep)))
    head = build_stack(meta, len(config.sweep)) if config.sweep else build_head(meta)
    objective = objective or head_kind(meta.model.kind).objective(meta.model)
    result = train(
        head, train_set, val_set, objective, config, on_epoch, checkpoint=checkpoint, loggers=loggers
    )
    return members_of(head)[result.best_member], result


def _require_memory(meta: HeadMeta, count: int) -> None:
    """Refuse a head for which the kernel would end the process."""
    parameters = count * count_parameters(meta)
    needed, free = parameters * _BYTES_A_PARAMETER, free_memory()
    if needed > free:
        raise TrainingError(
            expected=f"{needed / 1e9:.0f} GB of free memory for {parameters / 1e6:,.0f} million parameters",
            got=f"{free / 1e9:.0f} GB for the head {meta.label} on latents {tuple(meta.latent_shape)}",
            fix="Choose another head (heads=[mlp-matched] pools the latents first), or a larger machine.",
        )


def build_stack(meta: HeadMeta, count: int) -> HeadStack:
    """Build `count` untrained heads that `meta` describes, each with initial weights of its own."""
    return HeadStack([build_head(meta, seed=meta.seed + i * _MEMBER_SEEDS) for i in range(count)])


def _require_samples_of(meta: HeadMeta, name: str, samples: LatentBatches) -> None:
    """Refuse samples of another shape than the head's, which would fail somewhere inside it."""
    if head_kind(meta.model.kind).answer == "class":
        classes = len(meta.class_names)
        wanted = f"classes 0..{classes - 1} as targets int64 [N]"
        targets = samples.targets
        fits = not targets.is_floating_point() and targets.dim() == 1
        fits = fits and (not len(targets) or 0 <= int(targets.min()) <= int(targets.max()) < classes)
    else:
        wanted = f"numbers as targets [N, {meta.chunk}, {meta.action_dim}]"
        shape = tuple(samples.targets.shape[1:])
        fits = samples.targets.is_floating_point() and shape == (meta.chunk, meta.action_dim)
    proprio = len(meta.proprio_stats.mean) if meta.proprio_stats else 0
    given = 0 if samples.proprio is None else samples.proprio.shape[-1]
    if not fits or samples.latent_shape != tuple(meta.latent_shape) or given != proprio:
        raise ShapeError(
            expected=f"split {name} with latents {tuple(meta.latent_shape)}, {wanted} and "
            f"{proprio or 'no'} numbers of proprioception",
            got=f"latents {samples.latent_shape}, targets {samples.targets.dtype} "
            f"{tuple(samples.targets.shape)}, {given or 'no'} numbers of proprioception",
            fix="Describe the head by the samples it is trained on.",
        )


@torch.inference_mode()
def predict(head: nn.Module, samples: LatentBatches, *, device: str = "cpu") -> Tensor:
    """Return the head's outputs for all samples, `[N ...]` float32 on CPU.

    Args:
        head: On `device`; it is left in eval mode.
        samples: Their order is that of the answers.
        device: Where to compute.

    Raises:
        ShapeError: There are no samples.
    """
    if len(samples) == 0:
        raise ShapeError(expected="at least one sample", got="none", fix="Check the test split.")
    head.eval()
    served = samples.to(device, torch.float32)
    with kept_heap(device):
        batches = served.ahead(served.evaluation_rows(), served.gather)
        return torch.cat([head(*batch.inputs).float().cpu() for batch in batches])
