"""Training steps on CUDA that are recorded once as a graph and then replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lary_policy.errors import TrainingError
from lary_policy.heads.objective import Batch

Shares = Sequence[tuple[Batch, float]]  # micro batches and the weight of each
Update = Callable[[Shares, int | None], Tensor]
# Tokens of a batch up to which heads run side by side: each then keeps activations of its own, 100 kB a
# token of the reference's probe, and larger batches fill a GPU anyway.
_SIDE_BY_SIDE_TOKENS = 1 << 14
_WARM_UP = 3  # steps in which libraries choose and load their kernels, and the optimiser makes its state


class RecordedStep:
    """A training step whose kernels are started at once instead of one by one.

    A step of five probes starts two thousand kernels, and starting most of them takes longer than running
    them. The first steps run one by one; then one is recorded for batches of the first one's size, in which
    small heads run side by side, and replayed for all that follow. Batches of another size, as the last of an
    epoch, run one by one.

    Args:
        updates: One a head: updates its weights with a batch and returns its loss, without waiting for the
            device. It gets a seed, or None in the recorded step, which may draw nothing at random.
        device: CUDA device.
    """

    def __init__(self, updates: Sequence[Update], device: str) -> None:
        self._updates, self._stream = tuple(updates), torch.cuda.Stream(torch.device(device))
        self._lanes = [torch.cuda.Stream(torch.device(device)) for _ in updates]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._shapes: list[torch.Size] = []
        self._losses = torch.empty(0)
        self._seen = 0

    def __call__(self, batch: Shares, seed: int) -> Tensor:
        """Update weights with a batch; return the losses `[s]` of its heads.

        Raises:
            TrainingError: The step cannot be recorded.
        """
        tensors = _tensors(batch)
        self._shapes = self._shapes or [t.shape for t in tensors]
        if [t.shape for t in tensors] != self._shapes:
            return self._one_by_one(batch, seed)
        if self._seen < _WARM_UP:
            self._seen += 1
            return self._beside(batch, seed)
        if self._graph is None:
            self._graph = self._record(batch)
        for mine, given in zip(self._inputs, tensors, strict=True):
            mine.copy_(given)
        self._graph.replay()
        return self._losses.clone()

    def _one_by_one(self, batch: Shares, seed: int | None) -> Tensor:
        return torch.stack([update(batch, seed) for update in self._updates])

    def _recorded(self, batch: Shares) -> Tensor:
        few = max(part.latents.shape[:-1].numel() for part, _ in batch) <= _SIDE_BY_SIDE_TOKENS
        lanes = self._lanes if few else [self._stream] * len(self._updates)
        losses = []
        for update, lane in zip(self._updates, lanes, strict=True):
            lane.wait_stream(self._stream)
            with torch.cuda.stream(lane):
                losses.append(update(batch, None))
        for lane in lanes:
            self._stream.wait_stream(lane)
        return torch.stack(losses)

    def _beside(self, batch: Shares, seed: int) -> Tensor:
        """Run a step on the stream that is recorded later."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            losses = self._one_by_one(batch, seed)
        current.wait_stream(self._stream)
        return losses

    def _record(self, batch: Shares) -> torch.cuda.CUDAGraph:
        """Record a step on copies of a batch; nothing is computed yet.

        Threads that read the next batches may go on using the device meanwhile.
        """
        own = [(_copy(part), weight) for part, weight in batch]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._losses = self._recorded(own)
        except RuntimeError as error:
            raise TrainingError(
                expected="a training step that can be recorded as a CUDA graph",
                got=f"{type(error).__name__}: {error}",
                fix="Pass dataclasses.replace(objective, recordable=False), or train on the CPU.",
            ) from error
        self._inputs = _tensors(own)
        return graph


def _tensors(batch: Shares) -> list[Tensor]:
    return [t for part, _ in batch for t in (part.latents, part.targets, part.proprio) if t is not None]


def _copy(batch: Batch) -> Batch:
    proprio = None if batch.proprio is None else batch.proprio.clone()
    return Batch(batch.latents.clone(), batch.targets.clone(), proprio, batch.share)
