"""Intervals of quotients: explained variance and F1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from lary_policy.errors import ShapeError
from lary_policy.scores.intervals import Estimate, Floats, bootstrap, cluster_sums


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
