"""Quotients and F1 with intervals, against plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from lary_policy.errors import ShapeError
from lary_policy.scores.intervals import bootstrap_f1_ci, bootstrap_ratio_ci


def test_a_ratio_is_that_of_the_sums_and_its_interval_shrinks_with_more_episodes():
    rng = np.random.default_rng(0)
    widths = []
    for episodes in (10, 1000):
        below = rng.uniform(1, 2, 4 * episodes)
        above = below * rng.uniform(0, 1, 4 * episodes)
        found = bootstrap_ratio_ci(above, below, np.arange(4 * episodes) // 4)
        value, (low, high) = found.value, found.ci95
        assert value == pytest.approx(above.sum() / below.sum())
        assert low < value < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 5


def test_f1_is_the_mean_over_classes_that_have_samples():
    true, predicted = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2])
    found = bootstrap_f1_ci(true, predicted, 4)
    value, (low, high) = found.value, found.ci95
    assert value == pytest.approx((4 / 5 + 2 / 4) / 2)
    assert low <= value <= high
    assert bootstrap_f1_ci(true, predicted, 4, some=[1, 3]).value == pytest.approx(1 / 2)
    assert bootstrap_f1_ci(true, true, 4).value == 1


def test_resamples_draw_whole_episodes():
    """With two episodes every resample is one of three."""
    true, predicted, episodes = [0, 1, 1, 0], [0, 1, 0, 0], [7, 7, 7, 9]
    low, high = bootstrap_f1_ci(true, predicted, 2, episodes).ci95
    first = (2 / 3 + 2 / 3) / 2
    assert (low, high) == pytest.approx((first, 1))


def test_nothing_to_divide_by_is_an_error():
    with pytest.raises(ShapeError):
        bootstrap_ratio_ci([1.0], [0.0])
    with pytest.raises(ShapeError):
        bootstrap_f1_ci([0, 0], [0, 1], 3, some=[2])
