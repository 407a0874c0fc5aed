"""How scores foretell success: against scipy, published numbers of SIMPLER, and cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lary_policy.errors import ShapeError, UnknownNameError
from lary_policy.scores import (
    Points,
    correlation,
    difference,
    find_proxy,
    list_metrics,
    list_proxies,
    mmrv,
    partial_correlation,
    readings,
    without_each,
)
from lary_policy.scores.foretelling import centred, drawn_success, family_draws

# Success of RT-2-X, RT-1 (converged, 15 %), RT-1-X, RT-1 (begin) and Octo-Base on robots and in SIMPLER, as
# published in `simpler_env/utils/metrics.py`: picking a can and moving near.
COKE = ((0.907, 0.853, 0.920, 0.760, 0.133, 0.293), (0.787, 0.857, 0.710, 0.567, 0.027, 0.170))
NEAR = ((0.733, 0.633, 0.583, 0.450, 0.017, 0.350), (0.779, 0.442, 0.354, 0.317, 0.050, 0.042))


def points(values, rates, families=None, tasks=None, episodes=50, seeds=1):
    """Points whose episodes succeed at the given rates, the first ones."""
    outcomes = tuple(
        np.tile(np.arange(episodes) < round(r * episodes), (seeds, 1)).astype(float) for r in rates
    )
    n = len(values)
    return Points(
        np.asarray(values, float), outcomes, tuple(families or map(str, range(n))), tuple(tasks or ["t"] * n)
    )


@pytest.mark.parametrize(("real", "simulated"), [COKE, NEAR])
def test_mmrv_is_that_of_simpler_on_its_published_numbers(real, simulated):
    worst = [
        max(abs(real[i] - real[j]) * ((simulated[i] > simulated[j]) != (real[i] > real[j])) for j in range(6))
        for i in range(6)
    ]
    assert mmrv(simulated, real) == pytest.approx(np.mean(worst))


def test_mmrv_of_simplers_numbers_is_what_it_was():
    assert mmrv(COKE[1], COKE[0]) == pytest.approx(0.031, abs=1e-3)
    assert mmrv(NEAR[1], NEAR[0]) == pytest.approx(0.111, abs=1e-3)


def test_statistics_are_scipys_and_pooled_ones_are_of_centred_points():
    rng = np.random.default_rng(0)
    values, rates = rng.normal(size=24), rng.integers(0, 51, 24) / 50
    tasks = ["reach"] * 10 + ["push"] * 14
    found = readings(points(values, rates, tasks=tasks), resamples=20)
    x = np.concatenate([values[:10] - values[:10].mean(), values[10:] - values[10:].mean()])
    y = np.concatenate([rates[:10] - rates[:10].mean(), rates[10:] - rates[10:].mean()])
    assert found["pearson"].value == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found["spearman"].value == pytest.approx(stats.spearmanr(x, y.round(12)).statistic)
    assert found["kendall"].value == pytest.approx(stats.kendalltau(x, y.round(12)).statistic)
    assert centred(values, tasks) == pytest.approx(x)


def test_a_task_that_is_easier_for_all_is_no_evidence():
    values, rates = [0.0, 0.1, 5.0, 5.1], [0.1, 0.1, 0.9, 0.9]
    assert points(values, rates, tasks=["a", "a", "b", "b"]).why_none() == "success the same everywhere"
    assert readings(points(values, rates))["pearson"].value > 0.99


def test_families_are_drawn_whole_and_one_family_has_no_interval():
    families = ["a", "a", "b", "c", "c", "c"]
    for pick, times in family_draws(families, 0, 200):
        counts = [sum(families[i] == name for i in pick) / families.count(name) for name in "abc"]
        assert sum(counts) == 3
        assert all(c == int(c) for c in counts)
        assert times > 0
    found = readings(points([1, 2, 3, 4], [0.1, 0.3, 0.2, 0.8], families=["a"] * 4))
    assert found["pearson"].over_families is None
    assert found["pearson"].over_episodes is not None


def test_the_interval_over_families_covers_what_it_should():
    """Eight families of three views each whose score tells a family's level, and noise within the family."""
    inside = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        level = np.repeat(rng.normal(size=12), 3)
        rates = np.clip(0.5 + 0.15 * level + 0.15 * rng.normal(size=36), 0, 1)
        chosen = points(level, rates, families=[str(i // 3) for i in range(36)], episodes=200)
        low, high = readings(chosen, seed=trial, resamples=200)["pearson"].over_families
        inside += low <= np.sqrt(0.5) <= high
    assert inside >= 48  # of 60: percentile intervals of 12 clusters fall somewhat short of 95 %


def test_episodes_are_drawn_alike_for_all_views_of_a_task():
    same = points([1.0, 2.0, 3.0], [0.5, 0.5, 0.2])
    drawn = drawn_success(same, 0, 300)
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert drawn[:, 0].std() == pytest.approx(np.sqrt(0.25 / 50), rel=0.2)


def test_a_difference_is_of_the_same_points():
    rng = np.random.default_rng(3)
    rates = rng.uniform(0, 1, 16)
    families = [str(i // 2) for i in range(16)]
    good, bad = (
        points(v, rates, families) for v in (rates + 0.05 * rng.normal(size=16), rng.normal(size=16))
    )
    found = difference(good, bad)
    assert found.value == pytest.approx(
        readings(good)["pearson"].value - readings(bad)["pearson"].value, abs=1e-12
    )
    assert found.over_families[0] > 0
    assert difference(good, good).over_families == (0.0, 0.0)
    with pytest.raises(ShapeError, match="same points"):
        difference(good, points(rates, rates))


def test_partial_correlation_is_the_textbook_formula():
    rng = np.random.default_rng(4)
    z = rng.normal(size=30)
    x, y = z + rng.normal(size=30), np.clip(0.5 + 0.1 * z + 0.1 * rng.normal(size=30), 0, 1).round(2)
    xy, xz, yz = (np.corrcoef(a, b)[0, 1] for a, b in ((x, y), (x, z), (y, z)))
    wanted = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_correlation(points(x, y, episodes=100), z) == pytest.approx(wanted)
    assert partial_correlation(points(x, y), np.ones(30)) is None


def test_what_cannot_be_computed_is_named():
    assert points([1, 1, 1], [0.1, 0.2, 0.3]).why_none() == "the score the same everywhere"
    assert points([1, 2], [0.1, 0.2]).why_none() == "2 points"
    assert without_each(points([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.1], ["a", "a", "a", "b"])).keys() == {"b"}
    with pytest.raises(ShapeError, match="equal episodes"):
        Points(np.zeros(2), (np.zeros((1, 3)), np.zeros((1, 4))), ("a", "b"), ("t", "t"))
    with pytest.raises(UnknownNameError, match="spearman"):
        correlation("spearmen", [1, 2, 3], [1, 2, 3])
    with pytest.raises(UnknownNameError, match="policy_mse"):
        find_proxy("policy_mes")


def test_every_proxy_is_a_score_of_a_question():
    from lary_policy.runs.questions import list_questions

    for proxy in list_proxies().values():
        assert proxy.question in list_questions()
        assert list_metrics()[proxy.metric].higher_is_better is proxy.higher_is_better
        assert proxy.unit
        assert proxy.source
