"""Intervals against closed forms, simulation and scipy."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lary_policy.errors import ShapeError
from lary_policy.scores import agreement, intervals
from lary_policy.scores import intervals as ratios
from lary_policy.scores.agreement import SampleScores, mmrv, paired_difference


def as_pair(function):
    """Return a function's estimate as (value, interval)."""

    @functools.wraps(function)
    def call(*args, **options):
        found = function(*args, **options)
        return found.value, found.ci95

    return call


bootstrap_mean_ci, bootstrap_macro_ci, wilson_ci = map(
    as_pair, (intervals.bootstrap_mean_ci, intervals.bootstrap_macro_ci, intervals.wilson_ci)
)
pearson, spearman, kendall = (
    as_pair(functools.partial(agreement.correlation, kind)) for kind in ("pearson", "spearman", "kendall")
)
finite = st.floats(-100, 100, allow_nan=False)


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def test_wilson_matches_published_values():
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ]:
        value, interval = wilson_ci(successes, n)
        assert value == pytest.approx(successes / n)
        assert interval == pytest.approx((low, high), abs=5e-5)
    assert wilson_ci(0, 20)[1] == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_ci(50, 50)[1] == pytest.approx((1 / (1 + 1.959964**2 / 50), 1.0), abs=1e-6)


@given(st.integers(1, 300), st.floats(0, 1))
def test_wilson_matches_scipy_and_stays_in_range(n, share):
    successes = round(share * n)
    value, (low, high) = wilson_ci(successes, n)
    theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= low <= value <= high <= 1


def test_wilson_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    for rate in (0.1, 0.5, 0.9):
        intervals = [wilson_ci(int(k), 50)[1] for k in rng.binomial(50, rate, 2000)]
        coverage = np.mean([low <= rate <= high for low, high in intervals])
        assert 0.92 < coverage < 0.98


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ShapeError, match="trials"):
        wilson_ci(successes, n)


def test_bootstrap_agrees_with_the_normal_interval_of_many_samples():
    values = draw(0, 2000)
    mean, (low, high) = bootstrap_mean_ci(values)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


def test_bootstrap_covers_the_truth_about_95_times_in_100():
    covered = 0
    for trial in range(300):
        _, (low, high) = bootstrap_mean_ci(draw(trial, 60), seed=trial, resamples=400)
        covered += low <= 0 <= high
    assert 0.90 < covered / 300 < 0.985


def test_cluster_bootstrap_covers_where_the_naive_one_does_not():
    naive = clustered = 0
    episodes = np.repeat(np.arange(30), 10)
    for trial in range(200):
        rng = np.random.default_rng(trial)
        values = np.repeat(rng.normal(size=30), 10) + 0.1 * rng.normal(size=300)
        for kind in ("naive", "clustered"):
            clusters = episodes if kind == "clustered" else None
            _, (low, high) = bootstrap_mean_ci(values, clusters, seed=trial, resamples=300)
            if kind == "naive":
                naive += low <= 0 <= high
            else:
                clustered += low <= 0 <= high
    assert clustered / 200 > 0.88
    assert naive / 200 < 0.6


def test_cluster_bootstrap_weighs_samples_not_clusters_and_takes_any_labels():
    values, clusters = [1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"]
    mean, (low, high) = bootstrap_mean_ci(values, clusters)
    assert mean == 2.0
    assert (low, high) == (1.0, 5.0)


def test_the_same_seed_gives_the_same_interval():
    values = draw(1, 40)
    assert bootstrap_mean_ci(values, seed=3) == bootstrap_mean_ci(values, seed=3)
    assert bootstrap_mean_ci(values, seed=3) != bootstrap_mean_ci(values, seed=4)


def test_a_higher_level_is_a_wider_interval():
    values = draw(2, 40)
    (_, (low, high)), (_, (lower, higher)) = (bootstrap_mean_ci(values, level=v) for v in (0.8, 0.99))
    assert lower < low < high < higher


def test_macro_mean_weighs_classes_equally():
    correct, classes = [1, 1, 1, 0, 1, 0], ["a", "a", "a", "a", "b", "c"]
    value, (low, high) = bootstrap_macro_ci(correct, classes)
    assert value == pytest.approx((0.75 + 1 + 0) / 3)
    assert 0 <= low < value < high <= 1


def test_macro_of_equal_classes_is_the_mean_and_clusters_widen_it():
    rng = np.random.default_rng(0)
    classes, episodes = np.tile([0, 1], 100), np.repeat(np.arange(20), 10)
    correct = (np.repeat(rng.random(20), 10) > 0.5).astype(float)
    value, (low, high) = bootstrap_macro_ci(correct, classes)
    assert value == pytest.approx(correct.mean())
    _, (lower, higher) = bootstrap_macro_ci(correct, classes, episodes)
    assert higher - lower > 2 * (high - low)


def test_paired_difference_sees_what_unpaired_intervals_cannot():
    difficulty = 10 * draw(3, 200)
    first, second = difficulty + 0.1 + 0.1 * draw(4, 200), difficulty + 0.1 * draw(5, 200)
    items = tuple(map(str, range(200)))
    recordings = tuple(str(i // 2) for i in range(200))
    left = SampleScores("mse", items, recordings, tuple(first))
    # Its samples are in another order.
    right = SampleScores("mse", items[::-1], recordings[::-1], tuple(second[::-1]))
    found = paired_difference(left, right)
    assert found.value == pytest.approx((first - second).mean())
    assert found.clusters == 100
    assert 0 < found.ci95[0] < 0.1 < found.ci95[1] < 0.2
    (_, (low_first, _)), (_, (_, high_second)) = bootstrap_mean_ci(first), bootstrap_mean_ci(second)
    assert low_first < high_second
    assert paired_difference(SampleScores.from_dict(left.to_dict()), right) == found
    with pytest.raises(ShapeError, match="1 are on one side only, for example 199"):
        paired_difference(SampleScores("mse", items[:-1], recordings[:-1], tuple(first[:-1])), right)


def test_over_one_recording_there_is_no_interval_and_it_says_why():
    rng = np.random.default_rng(0)
    values, one = rng.random(30), np.zeros(30, int)
    everything = (
        intervals.bootstrap_mean_ci(values, one),
        intervals.bootstrap_mean_ci(values[:1]),
        intervals.bootstrap_macro_ci(values > 0.5, np.arange(30) % 3, one),
        ratios.bootstrap_ratio_ci(values, values + 1, one),
        ratios.bootstrap_f1_ci(np.arange(30) % 3, np.arange(30) % 2, 3, one),
    )
    for found in everything:
        assert (found.ci95, found.no_interval, found.clusters) == (None, "one recording", 1)
        assert found.map(lambda x: -x).ci95 is None
    assert intervals.bootstrap_mean_ci(values, np.arange(30) % 2).ci95 is not None


def test_a_rate_that_never_varies_has_the_interval_of_as_many_trials():
    """A bootstrap of equal recordings has no width, as if twelve recordings proved a rate of 100 %."""
    recordings = np.arange(60) // 5
    for hits in (np.ones(60), np.zeros(60)):
        found = intervals.bootstrap_mean_ci(hits, recordings, rate=True)
        assert found == intervals.wilson_ci(12 * int(hits[0]), 12)
    classes = np.arange(60) % 3
    expected = intervals.wilson_ci(12, 12)
    assert intervals.bootstrap_macro_ci(np.ones(60), classes, recordings) == expected
    assert ratios.bootstrap_f1_ci(classes, classes, 3, recordings) == expected
    mixed = intervals.bootstrap_mean_ci(recordings % 2, recordings, rate=True)
    assert mixed == intervals.bootstrap_mean_ci(recordings % 2, recordings)


def test_few_recordings_support_no_claim():
    """Between the lowest and the highest of five the middle of all lies with probability 94 % only."""
    values = np.repeat(np.arange(8.0) + 10, 10)
    for count in (1, 2, 5, 6, 8):
        found = intervals.bootstrap_mean_ci(values[: 10 * count], np.arange(10 * count) // 10)
        assert found.supports_claims == (count >= 6)
        assert found.excludes(0) == (count >= 6)
        assert not found.excludes(found.value)


def test_correlations_match_scipy():
    x = draw(6, 30)
    y = 0.5 * x + draw(7, 30)
    assert pearson(x, y)[0] == pytest.approx(stats.pearsonr(x, y).statistic)
    coarse = np.round(x)  # ties
    assert spearman(coarse, y)[0] == pytest.approx(stats.spearmanr(coarse, y).statistic)
    assert kendall(coarse, y)[0] == pytest.approx(stats.kendalltau(coarse, y).statistic)
    assert kendall(coarse, -y)[0] == pytest.approx(stats.kendalltau(coarse, -y).statistic)
    for estimate in (pearson(x, y), spearman(coarse, y), kendall(coarse, y)):
        assert -1 <= estimate[1][0] < estimate[0] < estimate[1][1] <= 1


def test_correlation_interval_covers_the_truth():
    covered = 0
    for trial in range(150):
        x = draw(trial, 60)
        y = 0.6 * x + 0.8 * draw(1000 + trial, 60)
        low, high = pearson(x, y, seed=trial, resamples=300)[1]
        covered += low <= 0.6 <= high
    assert 0.88 < covered / 150 <= 0.99


def test_three_points_give_an_interval_in_spite_of_degenerate_resamples():
    value, (low, high) = pearson([1.0, 2.0, 3.0], [0.1, 0.9, 0.5])
    assert low <= value <= high
    assert low == pytest.approx(-1)


@given(st.lists(finite, min_size=3, max_size=12, unique=True))
def test_a_line_correlates_perfectly(values):
    x = np.round(values, 3)
    if np.ptp(x) < 1:
        return
    assert pearson(x, 3 * x + 1, resamples=50)[0] == pytest.approx(1)
    assert spearman(x, -(x**3), resamples=50)[0] == pytest.approx(-1)
    assert kendall(x, -(x**3), resamples=50)[0] == pytest.approx(-1)


def mmrv_by_loops(predicted, reference):
    """The definition of SIMPLER, written as loops."""
    worst = []
    for i in range(len(reference)):
        violations = [0.0]
        for j in range(len(reference)):
            if (predicted[i] > predicted[j]) != (reference[i] > reference[j]):
                violations.append(abs(reference[i] - reference[j]))
        worst.append(max(violations))
    return sum(worst) / len(worst)


@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=8))
def test_mmrv_matches_its_definition(pairs):
    predicted, reference = zip(*pairs, strict=True)
    assert mmrv(predicted, reference) == pytest.approx(mmrv_by_loops(predicted, reference))


def test_mmrv_of_known_rankings():
    success = [0.1, 0.5, 0.9]
    assert mmrv([1, 2, 3], success) == 0
    assert mmrv([3, 2, 1], success) == pytest.approx((0.8 + 0.4 + 0.8) / 3)
    assert mmrv([1, 3, 2], success) == pytest.approx((0 + 0.4 + 0.4) / 3)
    assert mmrv([1, 1, 2], success) == pytest.approx(
        (0 + 0.4 + 0) / 3
    )  # a tie is held against the better one


@pytest.mark.parametrize(
    "call",
    [
        lambda: bootstrap_mean_ci([]),
        lambda: bootstrap_mean_ci([1.0, float("nan")]),
        lambda: bootstrap_mean_ci([[1.0]]),
        lambda: bootstrap_mean_ci([1.0, 2.0], [1]),
        lambda: bootstrap_macro_ci([1.0, 0.0], [1]),
        lambda: pearson([1.0, 2.0], [1.0, 2.0]),
        lambda: pearson([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]),
        lambda: mmrv([1.0], [1.0]),
        lambda: mmrv([1.0, 2.0], [1.0, 2.0, 3.0]),
    ],
)
def test_bad_input_is_a_named_error(call):
    with pytest.raises(ShapeError, match="expected"):
        call()
