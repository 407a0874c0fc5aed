"""Intervals of quotients: explained variance, F1. Whole episodes are drawn, as in `metrics`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lary_policy.errors import ShapeError
from lary_policy.scores.intervals import Estimate, Floats, cluster_numbers, draw, percentiles

_ROWS = 250  # resamples at once: the weights of 100,000 episodes take 200 MB


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
        clusters: Episode of each sample `[N]`; None draws samples.
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
    member = cluster_numbers(above, clusters)
    sums: Floats = np.stack([np.bincount(member, weights=v) for v in (above, below)], 1).astype(np.float64)
    drawn = _resampled(sums, seed, resamples)
    usable = drawn[drawn[:, 1] > 0]  # episodes that do not vary may fill a resample of few
    return float(above.sum() / below.sum()), percentiles(usable[:, 0] / usable[:, 1], level)


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
        clusters: Episode of each sample `[N]`; None draws samples.
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
    member = cluster_numbers(labels, clusters)
    groups = int(member.max()) + 1
    hits = labels == guesses
    counts: Floats = np.stack(
        [
            _tally(member[hits], labels[hits], groups, num_classes),
            _tally(member, labels, groups, num_classes),
            _tally(member, guesses, groups, num_classes),
        ],
        1,
    )
    flat = counts[:, :, chosen].reshape(len(counts), -1)
    drawn = _resampled(flat, seed, resamples).reshape(-1, 3, len(chosen))
    means = _macro_f1(drawn)
    return float(_macro_f1(flat.sum(0).reshape(1, 3, -1))[0]), percentiles(means[np.isfinite(means)], level)


def _tally(member: NDArray[np.int64], classes: NDArray[np.int64], groups: int, num_classes: int) -> Floats:
    """Return how often each cluster has each class `[clusters classes]`."""
    flat = np.bincount(member * num_classes + classes, minlength=groups * num_classes)
    return flat.reshape(groups, num_classes).astype(np.float64)


def _macro_f1(counts: Floats) -> Floats:
    """Return the mean F1 `[R]` of hits, samples and predictions `[R 3 classes]`; NaN without samples."""
    hits, samples, predictions = counts[:, 0], counts[:, 1], counts[:, 2]
    f1 = 2 * hits / np.maximum(samples + predictions, 1)
    present = (samples > 0).sum(1)
    total: NDArray[np.float64] = np.where(samples > 0, f1, 0).sum(1)
    return np.divide(total, present, out=np.full(len(total), np.nan), where=present > 0)


def _resampled(sums: Floats, seed: int, resamples: int) -> Floats:
    """Return the sums `[R m]` over drawn clusters of `[clusters m]`."""
    generator = np.random.default_rng(seed)
    parts = [
        draw(len(sums), generator, min(_ROWS, resamples - first)) @ sums
        for first in range(0, resamples, _ROWS)
    ]
    return np.concatenate(parts)
