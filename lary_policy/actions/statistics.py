"""Mean and standard deviation of actions, in one pass, and what deviations are too small to be scaled up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lary_policy.errors import EmbodimentError

STD_FLOOR = 1e-6  # LARYBench regression statistics: a smaller std becomes 1 (protocol section 5.1)


class Floors(Protocol):
    """What says which deviations are worth resolving: an `Embodiment`."""

    def least_scale(self, std: Sequence[float] | None = None) -> tuple[float, ...]:
        """Return the least deviation of each number that is worth resolving, given all deviations."""
        ...


def floored(std: ArrayLike, layout: Floors | None = None, *, share: float = 1.0) -> NDArray[np.float64]:
    """Keep deviations `[a]` from scaling up what does not vary.

    Args:
        std: Deviations.
        layout: Smaller ones are raised to what it says is worth resolving; None replaces those below
            `STD_FLOOR` by 1, as LARYBench does.
        share: Part of what is worth resolving: 1/k where it is spread over k numbers that add up.
    """
    values = np.asarray(std, dtype=np.float64)
    if layout is not None:
        return np.maximum(values, share * np.asarray(layout.least_scale(values.tolist())))
    return np.where(values < STD_FLOOR, 1.0, values)


@dataclass(frozen=True)
class ActionStats:
    """Mean and population standard deviation of each action number over all time steps of the train split.

    A dimension whose std is below `STD_FLOOR` is constant and named by `constant`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    count: int

    @classmethod
    def fit(cls, actions: Tensor, layout: Floors | None = None) -> ActionStats:
        """Compute statistics of `[..., a]` in float64; deviations are `floored` for `layout`.

        Raises:
            EmbodimentError: There are no actions.
        """
        seen = RunningStatistics(actions.shape[-1])
        seen.update(actions.reshape(-1, actions.shape[-1]).double().cpu().numpy())
        return seen.result(layout)

    def normalise(self, actions: Tensor) -> Tensor:
        """Map `[..., a]` to zero mean and unit variance."""
        return (actions - actions.new_tensor(self.mean)) / actions.new_tensor(self.std)

    def denormalise(self, actions: Tensor) -> Tensor:
        """Invert `normalise`."""
        return actions * actions.new_tensor(self.std) + actions.new_tensor(self.mean)

    def constant(self, actions: Tensor) -> tuple[int, ...]:
        """Return the dimensions of `[..., a]` that do not vary (std below `STD_FLOOR`)."""
        std = actions.reshape(-1, actions.shape[-1]).double().std(0, correction=0)
        return tuple(int(i) for i in torch.nonzero(std < STD_FLOOR).flatten())

    def raised(self, actions: Tensor) -> tuple[int, ...]:
        """Return the dimensions of `[..., a]` that vary, but less than was thought worth resolving."""
        std = actions.reshape(-1, actions.shape[-1]).double().std(0, correction=0)
        small = (std >= STD_FLOOR) & (std * (1 + 1e-9) < std.new_tensor(self.std))
        return tuple(int(i) for i in torch.nonzero(small).flatten())


class RunningStatistics:
    """Mean and population variance of vectors that come in batches; two of them can be merged exactly.

    Batches are combined by the formula of Chan, Golub and LeVeque (1979), in float64.

    Args:
        dim: Numbers a of a vector; None takes it from the first batch.
    """

    def __init__(self, dim: int | None = None) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(() if dim is None else dim)
        self._squares: NDArray[np.float64] = np.zeros_like(
            self.mean
        )  # summed squared deviations from the mean

    def update(self, values: NDArray[Any]) -> None:
        """Take in vectors `[n, a]`."""
        batch = np.asarray(values, dtype=np.float64)
        if len(batch):
            mean = batch.mean(0)
            self._combine(len(batch), mean, ((batch - mean) ** 2).sum(0))

    def merge(self, other: RunningStatistics) -> None:
        """Take in all that another one has seen."""
        self._combine(other.count, other.mean, other._squares)

    @property
    def std(self) -> NDArray[np.float64]:
        """Population standard deviation `[a]`; zeros before anything was taken in."""
        return np.sqrt(self._squares / max(self.count, 1))

    def result(self, layout: Floors | None = None, *, share: float = 1.0) -> ActionStats:
        """Return mean and population standard deviation, the latter `floored`.

        Raises:
            EmbodimentError: Nothing was taken in.
        """
        if self.count == 0:
            raise EmbodimentError(
                expected="at least one action",
                got="none",
                fix="Check the train split with `lary data verify`.",
            )
        std = floored(self.std, layout, share=share)
        return ActionStats(tuple(self.mean.tolist()), tuple(std.tolist()), self.count)

    def _combine(self, count: int, mean: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        total = self.count + count
        if count == 0:
            return
        shift = mean - self.mean
        self._squares = self._squares + squares + shift**2 * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total
