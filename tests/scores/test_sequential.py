"""The sequential test: an e-value, right at every look."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from lary_policy.scores import is_decided, paired_evidence


def outcomes(values):
    return dict(enumerate(bool(v) for v in values))


@pytest.mark.parametrize(("alone", "other"), [(0, 0), (1, 0), (5, 2), (9, 0), (3, 11)])
def test_it_is_the_mixture_of_likelihood_ratios(alone, other):
    first = outcomes([1] * alone + [0] * other + [1, 0])
    second = outcomes([0] * alone + [1] * other + [1, 0])
    ratio = lambda p: stats.beta.pdf(p, 0.5, 0.5) * (2 * p) ** alone * (2 * (1 - p)) ** other  # noqa: E731
    wanted, _ = integrate.quad(ratio, 0, 1)
    assert paired_evidence(first, second) == pytest.approx(wanted, rel=1e-4)


def test_equal_heads_are_seldom_told_apart_however_often_one_looks():
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(400):
        hits = rng.uniform(size=(2, 200)) < 0.5
        looks = range(10, 201, 10)
        wrong += any(is_decided(paired_evidence(*(outcomes(one[:n]) for one in hits))) for n in looks)
    assert wrong <= 20  # of 400: 5 %


def test_different_heads_are_told_apart_early():
    rng, needed = np.random.default_rng(1), []
    for _ in range(100):
        hits = rng.uniform(size=(2, 200)) < np.array([[0.8], [0.4]])
        looks = [
            n for n in range(10, 201, 10) if is_decided(paired_evidence(*(outcomes(h[:n]) for h in hits)))
        ]
        needed.append(looks[0] if looks else 200)
    assert np.mean(needed) < 90
    assert max(needed) <= 200


def test_only_episodes_that_both_ran_count():
    first = {1: True, 2: True, 3: False}
    assert paired_evidence(first, {1: True, 2: False}) == paired_evidence({2: True}, {2: False, 9: True})
