"""Whether two lists of numbers about the same things agree: correlations, and violations of the ranking."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lary_policy.errors import DatasetError, ShapeError, UnknownNameError
from lary_policy.scores.intervals import Estimate, Floats, bootstrap_mean_ci, finite_vector, percentiles

_MAX_REDRAWS = 1000  # a sample in which 1 of 1000 resamples varies holds no information about correlation


def correlation(
    kind: str,
    first: ArrayLike,
    second: ArrayLike,
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Return a correlation of `[N]` with `[N]` and its percentile bootstrap interval over points.

    Resamples in which one side does not vary have no correlation; they are drawn again. With few points the
    interval says little more than that there are few points.

    Args:
        kind: `pearson`; `spearman`, where ties share their mean rank; or `kendall`: tau-b, pairs in the same
            order minus pairs in opposite order, without ties.
        first: One side.
        second: The other.
        seed: Of the resampling.
        resamples: Bootstrap samples.
        level: Coverage.

    Raises:
        UnknownNameError: There is no such kind.
        ShapeError: Fewer than 3 points, lengths differ, or one side is constant.
    """
    if kind not in CORRELATIONS:
        raise UnknownNameError("correlation", kind, tuple(CORRELATIONS))
    left, right = finite_vector("first", first), finite_vector("second", second)
    same_length(left, right, at_least=3)
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        raise ShapeError(
            expected="two sides that vary", got="a constant", fix="Correlate more encoders or another task."
        )
    picks = _varying_resamples(left, right, seed, resamples)
    of_rows = CORRELATIONS[kind]
    value = float(of_rows(left[None], right[None])[0])
    return Estimate(value, percentiles(of_rows(left[picks], right[picks]), level), len(left))


def mmrv(predicted: ArrayLike, reference: ArrayLike) -> float:
    """Return the mean maximum rank violation (SIMPLER, Li et al., arXiv 2405.05941, section 3).

    For each item the largest difference in `reference` to an item that `predicted` ranks on the wrong side,
    averaged over items: 0 is a perfect ranking, the unit is that of `reference`. A tie on one side alone is
    a violation for the item that is higher on the other, as in the metrics that the authors publish.

    Args:
        predicted: Proxy score `[N]`, higher is better (negate errors).
        reference: What counts `[N]`, e.g. success rates.

    Raises:
        ShapeError: Fewer than 2 items or lengths differ.
    """
    proxy, real = finite_vector("predicted", predicted), finite_vector("reference", reference)
    same_length(proxy, real, at_least=2)
    return float(rank_violations(proxy[None], real[None])[0])


def rank_violations(proxy: Floats, real: Floats) -> Floats:
    """Return `mmrv` of each row of `[R N]` and `[R N]`."""
    gap = np.abs(real[:, :, None] - real[:, None, :])
    wrong = (proxy[:, :, None] > proxy[:, None, :]) != (real[:, :, None] > real[:, None, :])
    return (gap * wrong).max(axis=2).mean(axis=1)


def same_length(left: Floats, right: Floats, at_least: int = 1) -> None:
    """Raise ShapeError unless two vectors have the same length, at least `at_least`."""
    if len(left) != len(right) or len(left) < at_least:
        raise ShapeError(
            expected=f"two vectors of the same length, at least {at_least}",
            got=f"{len(left)} and {len(right)}",
            fix="Pass one value of each kind for every item.",
        )


def _varying_resamples(left: Floats, right: Floats, seed: int, resamples: int) -> NDArray[np.int64]:
    """Draw index sets `[resamples N]` in which both sides vary."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(left), (resamples, len(left)))
    for _ in range(_MAX_REDRAWS):
        flat = (np.ptp(left[picks], axis=1) == 0) | (np.ptp(right[picks], axis=1) == 0)
        if not flat.any():
            return picks
        picks[flat] = rng.integers(0, len(left), (int(flat.sum()), len(left)))
    raise ShapeError(
        expected="points that vary on both sides",
        got="almost all points equal",
        fix="Correlate more encoders or another task.",
    )


def _correlate(left: Floats, right: Floats) -> Floats:
    """Pearson's r of each row `[R N]`."""
    left = left - left.mean(axis=1, keepdims=True)
    right = right - right.mean(axis=1, keepdims=True)
    scale = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    return np.clip((left * right).sum(axis=1) / scale, -1.0, 1.0)


def _rank_correlate(left: Floats, right: Floats) -> Floats:
    return _correlate(_mean_ranks(left), _mean_ranks(right))


def _pair_correlate(left: Floats, right: Floats) -> Floats:
    """Kendall's tau-b of each row: the cosine between the signs of all differences."""
    signs = [np.sign(v[:, :, None] - v[:, None, :]).reshape(len(v), -1) for v in (left, right)]
    scale = np.sqrt((signs[0] ** 2).sum(1) * (signs[1] ** 2).sum(1))
    return (signs[0] * signs[1]).sum(1) / scale


def _mean_ranks(values: Floats) -> Floats:
    """Rank each row; equal values share their mean rank."""
    below = (values[:, None, :] < values[:, :, None]).sum(axis=2)
    equal = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    return below + (equal - 1) / 2.0


# Kinds of correlation: from rows `[R N]` and `[R N]` to `[R]`.
CORRELATIONS: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "pearson": _correlate,
    "spearman": _rank_correlate,
    "kendall": _pair_correlate,
}


class Evaluation(Protocol):
    """What was measured sample by sample."""

    @property
    def by_sample(self) -> tuple[str, Tensor]:
        """Name of a metric and its value for each sample `[N]`."""
        ...


@dataclass(frozen=True)
class SampleScores:
    """One number a sample, whose mean is a score.

    Attributes:
        metric: Name of the score, e.g. `mse` or `top1`.
        items: Where each sample stands, each once.
        clusters: Recording of each sample.
        values: One number a sample.
    """

    metric: str
    items: tuple[str, ...]
    clusters: tuple[str, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        finite_vector(f"{self.metric} of samples", self.values)
        if not len(self.items) == len(self.clusters) == len(self.values) == len(set(self.items)):
            raise ShapeError(
                expected="one item, each once, one recording and one value a sample",
                got=f"{len(set(self.items))} items of {len(self.items)}, {len(self.clusters)} recordings, "
                f"{len(self.values)} values",
                fix="Pass the rows that were evaluated.",
            )

    @classmethod
    def of(cls, evaluation: Evaluation, items: Sequence[str], clusters: Iterable[object]) -> SampleScores:
        """Take the samples of an evaluation.

        Args:
            evaluation: `ActionEvaluation` or `ClassEvaluation` of N samples.
            items: Where each stands.
            clusters: Recording of each.

        Raises:
            ShapeError: There is not one of each a sample, or an item stands twice.
        """
        metric, values = evaluation.by_sample
        return cls(metric, tuple(items), tuple(map(str, clusters)), tuple(values.double().tolist()))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> SampleScores:
        """Rebuild `to_dict`.

        Raises:
            DatasetError: A field is missing, unknown or of another type.
        """
        try:
            names, values = ("items", "clusters"), tuple(float(v) for v in raw["values"])
            return cls(**{**raw, "values": values, **{n: tuple(map(str, raw[n])) for n in names}})
        except Exception as error:
            raise DatasetError(
                expected="the values of samples as `SampleScores.to_dict` writes them",
                got=f"{type(error).__name__}: {error}",
                fix="Measure them again: the file is damaged or of another version.",
            ) from error


def paired_difference(
    first: SampleScores, second: SampleScores, *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> Estimate:
    """Return mean(first - second) over the same samples and its interval over their recordings.

    Args:
        first: Of one head.
        second: Of another one, in any order of the samples.
        seed: Of the resampling.
        resamples: Bootstrap samples.
        level: Coverage.

    Raises:
        ShapeError: They are of other metrics or samples; the message names some.
    """
    places = {item: place for place, item in enumerate(second.items)}
    lonely = sorted(set(first.items) ^ set(second.items))
    if first.metric != second.metric or lonely:
        raise ShapeError(
            expected=f"{first.metric} of the same {len(first.items)} samples",
            got=f"{second.metric} of {len(second.items)} samples; {len(lonely)} are on one side only"
            + (f", for example {', '.join(lonely[:3])}" if lonely else ""),
            fix="Compare heads that were evaluated on the same split of the same data.",
        )
    order = [places[item] for item in first.items]
    differences = np.asarray(first.values) - np.asarray(second.values)[order]
    return bootstrap_mean_ci(differences, first.clusters, seed=seed, resamples=resamples, level=level)
