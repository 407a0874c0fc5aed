"""Values with intervals: one bootstrap over recordings for means, quotients, classes and differences.

Samples of one recording are not independent, so whole recordings are drawn. Pure numpy; the same seed gives
the same interval.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lary_policy.errors import ShapeError

Floats = NDArray[np.float64]
Interval = tuple[float, float]
# Even from the lowest to the highest of k recordings, an interval covers the median of what they were drawn
# from with probability 1 - 2^(1-k) only: 97 % for 6, 94 % for 5.
CLAIM_CLUSTERS = 6
_ROWS = 250  # resamples at once: the weights of 100,000 episodes take 200 MB


@dataclass(frozen=True)
class Estimate:
    """A measured number and how well it is known.

    Attributes:
        value: The number.
        ci95: Its 95 % confidence interval, or None if there is none to be had.
        clusters: Independent recordings, episodes or trials behind it.
        no_interval: Why there is no interval, in words; empty if there is one.
    """

    value: float
    ci95: Interval | None
    clusters: int
    no_interval: str = ""

    @property
    def supports_claims(self) -> bool:
        """Whether the interval may tell the number from another: there is one, of enough recordings."""
        return self.ci95 is not None and self.clusters >= CLAIM_CLUSTERS

    def excludes(self, value: float) -> bool:
        """Return whether the interval supports the claim that the number is not `value`."""
        return self.supports_claims and self.ci95 is not None and not self.ci95[0] <= value <= self.ci95[1]

    def map(self, function: Callable[[float], float]) -> Estimate:
        """Return the estimate of a monotonous function of the number."""
        ends = None if self.ci95 is None else sorted(function(end) for end in self.ci95)
        ci95 = None if ends is None else (ends[0], ends[1])
        return Estimate(function(self.value), ci95, self.clusters, self.no_interval)


def bootstrap(
    sums: Floats,
    statistic: Callable[[Floats], Floats],
    *,
    rate: bool = False,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Return a statistic of sums over recordings, and its percentile interval over drawn recordings.

    A rate of 0 or 1 in every recording does not vary between resamples: its interval is that of as many
    trials (`wilson_ci`), as none of width 0 would be.

    Args:
        sums: What each recording adds, `[clusters m]`.
        statistic: Sums `[R m]` to numbers `[R]`; not finite where a resample has none.
        rate: Whether the statistic is a rate.
        seed: Of the resampling.
        resamples: Bootstrap samples.
        level: Coverage.
    """
    value = float(statistic(sums.sum(0, keepdims=True))[0])
    if len(sums) < 2:
        return Estimate(value, None, len(sums), "one recording")
    draws = statistic(_resampled(sums, seed, resamples))
    draws = draws[np.isfinite(draws)]  # recordings that do not vary may fill a resample of few
    if not len(draws):
        return Estimate(value, None, len(sums), "no resample has a value")
    if rate and value in (0.0, 1.0) and np.ptp(draws) == 0:
        return wilson_ci(int(value) * len(sums), len(sums), level=level)
    return Estimate(value, percentiles(draws, level), len(sums))


def bootstrap_mean_ci(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    rate: bool = False,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Return the mean of `values` `[N]` and its interval.

    Args:
        values: One number a sample.
        clusters: Recording of each sample `[N]`; None draws samples.
        rate: Whether values are 1 for a hit and 0 for a miss.
        seed: Of the resampling.
        resamples: Bootstrap samples.
        level: Coverage.

    Raises:
        ShapeError: Nothing to average, lengths differ, or a value is not finite.
    """
    vector = finite_vector("values", values)
    sums = cluster_sums((vector, np.ones(len(vector))), clusters)
    return bootstrap(
        sums, lambda s: s[:, 0] / s[:, 1], rate=rate, seed=seed, resamples=resamples, level=level
    )


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
    values = finite_vector("correct", correct)
    kinds, member = np.unique(one_each("class", values, classes), return_inverse=True)
    hits = (np.where(member == kind, values, 0.0) for kind in range(len(kinds)))
    counts = ((member == kind).astype(np.float64) for kind in range(len(kinds)))
    sums = cluster_sums(itertools.chain(hits, counts), clusters)

    def macro(drawn: Floats) -> Floats:
        hit, count = np.split(drawn, 2, axis=1)
        rates = np.divide(hit, count, out=np.zeros_like(hit), where=count > 0)
        return rates.sum(axis=1) / (count > 0).sum(axis=1)

    return bootstrap(sums, macro, rate=True, seed=seed, resamples=resamples, level=level)


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
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == n else float(centre + half)
    return Estimate(rate, (low, high), n)


def cluster_sums(columns: Iterable[Floats], clusters: ArrayLike | None) -> Floats:
    """Return the sum of each of m columns `[N]` over each cluster, `[clusters m]`.

    Raises:
        ShapeError: There is not one cluster for each value.
    """
    if clusters is None:
        return np.stack(list(columns), 1)
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    return np.stack([np.bincount(one_each("cluster", column, member), column) for column in columns], 1)


def percentiles(draws: Floats, level: float) -> Interval:
    """Return the ends of the central interval that holds `level` of the draws."""
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def finite_vector(name: str, values: ArrayLike) -> Floats:
    """Return values as float64 `[N]`.

    Raises:
        ShapeError: There are none, they are no vector, or one is not finite.
    """
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or len(vector) == 0 or not np.isfinite(vector).all():
        raise ShapeError(
            expected=f"finite {name} of shape [N] with N >= 1",
            got=f"shape {vector.shape}, {int((~np.isfinite(vector)).sum())} non-finite",
            fix="Check what was measured.",
        )
    return vector


def one_each(name: str, values: NDArray[Any], labels: ArrayLike) -> NDArray[Any]:
    """Return `labels` as an array, one for each value.

    Raises:
        ShapeError: There are more or fewer.
    """
    array = np.asarray(labels)
    if array.shape != values.shape:
        raise ShapeError(
            expected=f"one {name} for each of {len(values)} values",
            got=f"{array.shape}",
            fix="Pass one label for each sample, e.g. its episode.",
        )
    return array


def _resampled(sums: Floats, seed: int, resamples: int) -> Floats:
    """Return the sums `[R m]` over drawn clusters of `[clusters m]`."""
    generator, units = np.random.default_rng(seed), len(sums)
    chances = np.full(units, 1.0 / units)
    parts = [
        generator.multinomial(units, chances, size=min(_ROWS, resamples - first)).astype(np.float64) @ sums
        for first in range(0, resamples, _ROWS)
    ]
    return np.concatenate(parts)


def bootstrap_ratio_ci(
    numerator: ArrayLike,
    denominator: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Return sum(numerator) / sum(denominator) of `[N]` values and its percentile bootstrap interval.

    Args:
        numerator: One number a sample.
        denominator: One number a sample, none negative.
        clusters: Recording of each sample `[N]`; None draws samples.
        seed: Of the resampling.
        resamples: Bootstrap samples.
        level: Coverage.

    Raises:
        ShapeError: Lengths differ, a value is not finite, or the denominators sum to nothing.
    """
    above, below = (np.asarray(v, dtype=np.float64) for v in (numerator, denominator))
    if above.shape != below.shape or not np.isfinite([above, below]).all() or not below.sum() > 0:
        raise ShapeError(
            expected="finite numerators and denominators of one length with a positive sum",
            got=f"shapes {above.shape} and {below.shape}, sum {below.sum()}",
            fix="Check what was measured.",
        )

    def quotient(sums: Floats) -> Floats:
        usable = sums[:, 1] > 0  # recordings that do not vary may fill a resample of few
        return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=usable)

    sums = cluster_sums((above, below), clusters)
    return bootstrap(sums, quotient, seed=seed, resamples=resamples, level=level)


def bootstrap_f1_ci(
    true: ArrayLike,
    predicted: ArrayLike,
    num_classes: int,
    clusters: ArrayLike | None = None,
    *,
    some: Sequence[int] | None = None,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Return the mean F1 of the classes that have samples, and its percentile bootstrap interval.

    Args:
        true: Class of each sample `[N]`.
        predicted: Predicted class of each sample `[N]`.
        num_classes: Classes.
        clusters: Recording of each sample `[N]`; None draws samples.
        some: Classes to average over; None for all.
        seed: Of the resampling.
        resamples: Bootstrap samples.
        level: Coverage.

    Raises:
        ShapeError: There are no samples of these classes.
    """
    labels, guesses = np.asarray(true, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    chosen = list(range(num_classes) if some is None else some)
    if labels.shape != guesses.shape or not np.isin(labels, chosen).any():
        raise ShapeError(
            expected=f"samples of {len(chosen)} classes with one prediction each",
            got=f"{labels.shape} samples, {guesses.shape} predictions",
            fix="Check the test split.",
        )
    hits = np.where(labels == guesses, labels, -1)
    columns = ((of == kind).astype(np.float64) for of in (hits, labels, guesses) for kind in chosen)
    sums = cluster_sums(columns, clusters)
    return bootstrap(sums, _macro_f1, rate=True, seed=seed, resamples=resamples, level=level)


def _macro_f1(sums: Floats) -> Floats:
    """Return the mean F1 `[R]` of hits, samples and predictions `[R 3*classes]`; NaN without samples."""
    hits, samples, predictions = np.split(sums, 3, axis=1)
    f1 = 2 * hits / np.maximum(samples + predictions, 1)
    present = (samples > 0).sum(1)
    total = np.where(samples > 0, f1, 0).sum(1)
    return np.divide(total, present, out=np.full(len(total), np.nan), where=present > 0)
