"""Intervals and agreement measures. Pure numpy; the same seed gives the same interval."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lary_policy.errors import ShapeError

Floats = NDArray[np.float64]
Estimate = tuple[float, tuple[float, float]]
_MAX_REDRAWS = 1000  # a sample in which 1 of 1000 resamples varies holds no information about correlation


def bootstrap_mean_ci(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Return the mean of `values` `[N]` and its percentile bootstrap interval.

    Args:
        values: One number a sample.
        clusters: Episode of each sample `[N]`. Samples of one episode are not independent, so whole episodes
            are drawn; None draws samples.
        seed: Of the resampling.
        resamples: Bootstrap samples.
        level: Coverage.

    Raises:
        ShapeError: Nothing to average, lengths differ, or a value is not finite.
    """
    sums, counts = _cluster_sums(_vector("values", values), clusters)
    weights = draw(len(sums), np.random.default_rng(seed), resamples)
    return float(sums.sum() / counts.sum()), percentiles((weights @ sums) / (weights @ counts), level)


def bootstrap_macro_ci(
    correct: ArrayLike,
    classes: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Return the mean over classes of the mean of `correct` `[N]` within each class, and its interval.

    Classes are weighted anew in every resample, over those it contains, so the interval stays within the
    range of `correct`.

    Args:
        correct: 1 for a hit, 0 for a miss.
        classes: True class of each sample `[N]`.
        clusters: As in `bootstrap_mean_ci`.
        seed: Of the resampling.
        resamples: Bootstrap samples.
        level: Coverage.

    Raises:
        ShapeError: Nothing to average, lengths differ, or a value is not finite.
    """
    values = _vector("correct", correct)
    _, member = np.unique(_matching("class", values, classes), return_inverse=True)
    one_hot = np.eye(int(member.max()) + 1)[member]  # [N classes]
    groups = np.arange(len(values)) if clusters is None else _matching("cluster", values, clusters)
    _, group = np.unique(groups, return_inverse=True)
    hits, counts = (np.zeros((int(group.max()) + 1, one_hot.shape[1])) for _ in range(2))
    np.add.at(hits, group, one_hot * values[:, None])
    np.add.at(counts, group, one_hot)
    weights = np.vstack([np.ones(len(hits)), draw(len(hits), np.random.default_rng(seed), resamples)])
    hit, count = weights @ hits, weights @ counts
    rates = np.divide(hit, count, out=np.zeros_like(hit), where=count > 0)
    macro = rates.sum(axis=1) / (count > 0).sum(axis=1)
    return float(macro[0]), percentiles(macro[1:], level)


def paired_bootstrap_diff(
    first: ArrayLike,
    second: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Return mean(first - second) over the same samples `[N]` and its interval; clusters as for means.

    Raises:
        ShapeError: Nothing to compare, lengths differ, or a value is not finite.
    """
    left, right = _vector("first", first), _vector("second", second)
    _same_length(left, right)
    return bootstrap_mean_ci(left - right, clusters, seed=seed, resamples=resamples, level=level)


def wilson_ci(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """Return the success rate and its Wilson score interval (Wilson, JASA 22, 1927).

    Raises:
        ShapeError: There are no trials, or more successes than trials.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ShapeError(
            expected="n >= 1 trials and 0 <= successes <= n",
            got=f"{successes} of {n}",
            fix="Run episodes first.",
        )
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == n else float(centre + half)
    return rate, (low, high)


def pearson(
    first: ArrayLike, second: ArrayLike, *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> Estimate:
    """Return Pearson's r of `[N]` and `[N]` and its percentile bootstrap interval over points.

    Resamples in which one side does not vary have no correlation; they are drawn again. With few points the
    interval says little more than that there are few points.

    Raises:
        ShapeError: Fewer than 3 points, lengths differ, or one side is constant.
    """
    return _correlation_ci(_rows, first, second, seed, resamples, level)


def spearman(
    first: ArrayLike, second: ArrayLike, *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> Estimate:
    """Return Spearman's rank correlation (ties share their mean rank) and its bootstrap interval.

    Raises:
        ShapeError: Fewer than 3 points, lengths differ, or one side is constant.
    """
    return _correlation_ci(_mean_ranks, first, second, seed, resamples, level)


def mmrv(predicted: ArrayLike, reference: ArrayLike) -> float:
    """Return the mean maximum rank violation (SIMPLER, Li et al., arXiv 2405.05941, section 3).

    For each item the largest difference in `reference` to an item that `predicted` ranks on the wrong side,
    averaged over items: 0 is a perfect ranking, the unit is that of `reference`.

    Args:
        predicted: Proxy score `[N]`, higher is better (negate errors).
        reference: What counts `[N]`, e.g. success rates.

    Raises:
        ShapeError: Fewer than 2 items or lengths differ.
    """
    proxy, real = _vector("predicted", predicted), _vector("reference", reference)
    _same_length(proxy, real, at_least=2)
    gap = np.abs(real[:, None] - real[None, :])
    wrong = (proxy[:, None] < proxy[None, :]) != (real[:, None] < real[None, :])
    return float((gap * wrong).max(axis=1).mean())


def _correlation_ci(
    transform: Callable[[Floats], Floats],
    first: ArrayLike,
    second: ArrayLike,
    seed: int,
    resamples: int,
    level: float,
) -> Estimate:
    left, right = _vector("first", first), _vector("second", second)
    _same_length(left, right, at_least=3)
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        raise ShapeError(
            expected="two sides that vary", got="a constant", fix="Correlate more encoders or another task."
        )
    picks = _varying_resamples(left, right, seed, resamples)
    draws = _correlate(transform(left[picks]), transform(right[picks]))
    value = _correlate(transform(left[None]), transform(right[None]))[0]
    return float(value), percentiles(draws, level)


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
    """Pearson's r of each row."""
    left = left - left.mean(axis=1, keepdims=True)
    right = right - right.mean(axis=1, keepdims=True)
    scale = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    return np.clip((left * right).sum(axis=1) / scale, -1.0, 1.0)


def _rows(values: Floats) -> Floats:
    return values


def _mean_ranks(values: Floats) -> Floats:
    """Rank each row; equal values share their mean rank."""
    below = (values[:, None, :] < values[:, :, None]).sum(axis=2)
    equal = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    return below + (equal - 1) / 2.0


def _cluster_sums(values: Floats, clusters: ArrayLike | None) -> tuple[Floats, Floats]:
    """Sum and count of values in each cluster."""
    if clusters is None:
        return values, np.ones(len(values))
    _, member = np.unique(_matching("cluster", values, clusters), return_inverse=True)
    sums = np.bincount(member, weights=values).astype(np.float64)
    return sums, np.bincount(member).astype(np.float64)


def _matching(name: str, values: NDArray[Any], labels: ArrayLike) -> NDArray[Any]:
    """Return `labels` as an array, one for each value."""
    array = np.asarray(labels)
    if array.shape != values.shape:
        raise ShapeError(
            expected=f"one {name} for each of {len(values)} values",
            got=f"{array.shape}",
            fix="Pass one label for each sample, e.g. its episode.",
        )
    return array


def cluster_numbers(values: NDArray[Any], clusters: ArrayLike | None) -> NDArray[np.int64]:
    """Return the number of each value's cluster, 0 to the number of clusters - 1 `[N]`.

    Raises:
        ShapeError: There is not one cluster for each value.
    """
    if clusters is None:
        return np.arange(len(values))
    return np.unique(_matching("cluster", values, clusters), return_inverse=True)[1]


def draw(units: int, rng: np.random.Generator, resamples: int) -> Floats:
    """Return how often each unit is drawn in each resample, `[resamples units]`."""
    return rng.multinomial(units, np.full(units, 1.0 / units), size=resamples).astype(np.float64)


def percentiles(draws: Floats, level: float) -> tuple[float, float]:
    """Return the ends of the central interval that holds `level` of the draws."""
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def _vector(name: str, values: ArrayLike) -> Floats:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or len(vector) == 0 or not np.isfinite(vector).all():
        raise ShapeError(
            expected=f"finite {name} of shape [N] with N >= 1",
            got=f"shape {vector.shape}, {int((~np.isfinite(vector)).sum())} non-finite",
            fix="Check what was measured.",
        )
    return vector


def _same_length(left: Floats, right: Floats, at_least: int = 1) -> None:
    if len(left) != len(right) or len(left) < at_least:
        raise ShapeError(
            expected=f"two vectors of the same length, at least {at_least}",
            got=f"{len(left)} and {len(right)}",
            fix="Pass one value of each kind for every item.",
        )
