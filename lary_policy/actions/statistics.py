"""Mean and standard deviation of actions: the benchmark's constants, and streamed ones (section 5.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lary_policy.actions.embodiment import STD_FLOOR, ActionStats
from lary_policy.errors import EmbodimentError, UnknownNameError

_NOT_STATED = 0  # the benchmark does not say how many actions its constants were computed from


def _constants(mean: Sequence[float], std: Sequence[float]) -> ActionStats:
    return ActionStats(tuple(mean), tuple(std), _NOT_STATED)


# Literals of the reference's regression script (regression/main.py at commit 2092d20; protocol section 5.1).
_CALVIN = _constants(
    (0.03993005, -0.1113833, 0.50033228, 1.04580053, -0.08165425, 1.58390577, -0.08441296),
    (0.14403107, 0.09919957, 0.05518382, 2.89455128, 0.13053949, 0.57474015, 0.99643086),
)
_VLABENCH = _constants(
    (0.02959172, 0.39965126, 0.25788001, 1.0136418, -0.38189239, -0.13961033, 0.54842541),
    (0.15966601, 0.13813421, 0.1362726, 2.70449661, 0.63210694, 1.72885403, 0.49764945),
)
CONSTANTS: Mapping[str, ActionStats] = {
    "calvin": _CALVIN,
    "vlabench": _VLABENCH,
    "vlabench_15": _VLABENCH,
    "vlabench_30": _VLABENCH,
}


def benchmark_constants(key: str) -> ActionStats:
    """Return the statistics that the benchmark states for absolute actions of a dataset.

    Raises:
        UnknownNameError: It states none: compute them with `stream_statistics`.
    """
    if key not in CONSTANTS:
        raise UnknownNameError("dataset with stated statistics", key, CONSTANTS)
    return CONSTANTS[key]


class RunningStatistics:
    """Mean and population variance of vectors that come in batches; two of them can be merged exactly.

    Batches are combined by the formula of Chan, Golub and LeVeque (1979), in float64.

    Args:
        dim: Numbers a of a vector.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(dim)
        self._squares: NDArray[np.float64] = np.zeros(dim)  # summed squared deviations from the mean

    def update(self, values: NDArray[Any]) -> None:
        """Take in vectors `[n, a]`."""
        batch = np.asarray(values, dtype=np.float64)
        if len(batch):
            mean = batch.mean(0)
            self._combine(len(batch), mean, ((batch - mean) ** 2).sum(0))

    def merge(self, other: RunningStatistics) -> None:
        """Take in all that another one has seen."""
        self._combine(other.count, other.mean, other._squares)

    def result(self) -> ActionStats:
        """Return mean and population standard deviation; one below `STD_FLOOR` becomes 1.

        Raises:
            EmbodimentError: Nothing was taken in.
        """
        if self.count == 0:
            raise EmbodimentError(
                expected="at least one action",
                got="none",
                fix="Check the train split with `lary data verify`.",
            )
        std = np.sqrt(self._squares / self.count)
        std = np.where(std < STD_FLOOR, 1.0, std)
        return ActionStats(tuple(self.mean.tolist()), tuple(std.tolist()), self.count)

    def _combine(self, count: int, mean: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        total = self.count + count
        if count == 0:
            return
        shift = mean - self.mean
        self._squares = self._squares + squares + shift**2 * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total
