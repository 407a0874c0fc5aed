from __future__ import annotations

import pytest

from lary_policy.report.correlate import correlate
from lary_policy.scores.score import Score

from .synthetic import MSE, SUCCESS, all_scores, probe_scores, rollout_scores


def mixed(mse: dict[str, float], success: dict[str, float], mode: str = "subgoal") -> list[Score]:
    probe_mode = {"subgoal": "pair"}.get(mode, mode)
    return probe_scores("reach", probe_mode, mse) + rollout_scores("reach", mode, success)


def test_one_panel_a_task_and_mode_without_references() -> None:
    panels, unmatched = correlate(all_scores())
    assert [(p.task, p.mode) for p in panels] == [
        ("reach", "subgoal"),
        ("reach", "policy"),
        ("pick_place", "subgoal"),
        ("pick_place", "policy"),
    ]
    assert unmatched == ()
    assert all(len(p.points) == 3 and p.target == "relative" for p in panels)
    assert all(q.probe.mode == {"subgoal": "pair"}.get(p.mode, p.mode) for p in panels for q in p.points)
    assert all(
        q.probe.target == q.success.target and q.probe.metric == "mse" for p in panels for q in p.points
    )


def test_lower_error_with_higher_success_is_perfect_agreement() -> None:
    (panel,), _ = correlate(mixed(MSE, SUCCESS))
    assert panel.pearson_r == pytest.approx(-0.996, abs=0.01)
    assert (panel.mmrv, panel.agreeing, panel.pairs) == (0.0, 3, 3)
    assert panel.pearson_ci95 is None
    assert "Only 3 points" in panel.note


def test_reversed_order_is_seen() -> None:
    reverse = dict(zip(MSE, reversed(list(SUCCESS.values())), strict=True))
    (panel,), _ = correlate(mixed(MSE, reverse))
    assert panel.agreeing == 0
    assert panel.pearson_r is not None
    assert panel.pearson_r > 0.9
    # MMRV by hand: the largest violation of each of the three, then their mean.
    assert panel.mmrv == pytest.approx((0.34 + 0.22 + 0.34) / 3)


def test_an_interval_comes_with_five_points_and_the_warning_goes() -> None:
    mse = {f"e{i}": 0.1 + 0.1 * i for i in range(5)}
    success = {f"e{i}": (0.9, 0.8, 0.3, 0.4, 0.1)[i] for i in range(5)}
    (panel,), _ = correlate(mixed(mse, success))
    assert panel.pearson_r is not None
    assert panel.pearson_ci95 is not None
    assert panel.pearson_ci95[0] <= panel.pearson_r <= panel.pearson_ci95[1] < 0
    assert "too few" not in panel.note
    assert (panel.agreeing, panel.pairs) == (9, 10)


def test_equal_success_leaves_r_undefined_and_says_so() -> None:
    (panel,), _ = correlate(mixed(MSE, dict.fromkeys(MSE, 1.0)))
    assert panel.pearson_r is None
    assert panel.pairs == 0
    assert "succeed equally often" in panel.note


@pytest.mark.parametrize(("count", "words"), [(1, "One point"), (2, "Only 2 points")])
def test_one_and_two_points(count: int, words: str) -> None:
    names = list(MSE)[:count]
    (panel,), _ = correlate(mixed({n: MSE[n] for n in names}, {n: SUCCESS[n] for n in names}))
    assert panel.pearson_r is None
    assert words in panel.note


def test_rollouts_without_their_probe_are_listed_with_a_reason() -> None:
    scores = mixed({"pixels": 0.5}, SUCCESS)
    panels, unmatched = correlate(scores)
    assert len(panels[0].points) == 1
    assert [u.score.encoder for u in unmatched] == ["efficientnet-lite0", "dinov2-small"]
    assert all("no test MSE" in u.reason for u in unmatched)


def test_another_fingerprint_is_not_the_same_encoder() -> None:
    scores = [
        Score.from_dict({**s.to_dict(), "fingerprint": "old"}) if s.stage == "probe" else s
        for s in mixed({"pixels": 0.5}, {"pixels": 0.2})
    ]
    panels, unmatched = correlate(scores)
    assert panels == ()
    assert unmatched[0].reason == "the probe used encoder old, the rollout fp-pixels"


def test_the_test_split_is_taken_when_several_were_scored() -> None:
    rollouts = rollout_scores("reach", "subgoal", {"pixels": 0.2})
    test = probe_scores("reach", "pair", {"pixels": 0.5})
    val = [Score.from_dict({**s.to_dict(), "split": "val", "value": s.ci95[0]}) for s in test]
    (panel,), _ = correlate([*val, *test, *rollouts])
    assert panel.points[0].probe.split == "test"
    other = [Score.from_dict({**s.to_dict(), "split": "unseen"}) for s in test]
    panels, unmatched = correlate([*val, *other, *rollouts])
    assert panels == ()
    assert "several splits" in unmatched[0].reason
