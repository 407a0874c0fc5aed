"""What success is foretold of a view: on points whose law is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lary_policy.errors import DatasetError
from lary_policy.report.driven import Driven
from lary_policy.report.foretell import LEAST_VIEWS, foretell, foretold_rows

TASKS = {"reach": 0.6, "push": 0.3, "lift": 0.5}


def study(views=16, noise=0.06, seed=0, families=8, tasks=TASKS):
    """Views whose state probe tells success up to noise; policy MSE is half as telling."""
    rng = np.random.default_rng(seed)
    found = []
    for view in range(views):
        skill = rng.normal()
        for task, level in tasks.items():
            rate = np.clip(level + 0.15 * skill + noise * rng.normal(), 0, 1)
            hits = (rng.uniform(size=(1, 50)) < rate).astype(float)
            own = {"state_probe": 0.5 + 0.1 * skill, "policy_mse": 1 - 0.2 * skill + 0.2 * rng.normal()}
            found.append(Driven(f"enc{view % families}-s@layer{view}", task, "policy", hits, own))
    return found


def asked(skill, tasks=TASKS):
    return {task: {"state_probe": 0.5 + 0.1 * skill, "policy_mse": 1 - 0.2 * skill} for task in tasks}


def test_expectations_follow_the_law_and_intervals_cover_new_views():
    inside, total, widths = 0, 0, []
    for trial in range(12):
        points, skill = study(seed=trial), (-1.0, 0.0, 1.0)[trial % 3]
        found = foretell(points, "mine", asked(skill))
        assert {one.task for one in found} == set(TASKS)
        for one in found:
            true = np.clip(TASKS[one.task] + 0.15 * skill, 0, 1)
            assert one.value == pytest.approx(true, abs=0.15)
            measured = true + 0.06 * np.random.default_rng(trial + 99).normal()
            inside += one.interval[0] <= measured <= one.interval[1]
            total += 1
            widths.append(one.interval[1] - one.interval[0])
            assert one.left_out_by == "family"
            assert 0.85 <= one.coverage <= 1.0
    assert inside / total >= 0.9
    assert 0.1 < np.mean(widths) < 0.6


def test_scores_that_tell_nothing_leave_the_tasks_mean_and_a_wide_interval():
    points = study()
    shuffled = np.random.default_rng(5).permutation(len(points))
    of_others = [points[i].proxies for i in shuffled]
    blind = [replace(p, proxies=other) for p, other in zip(points, of_others, strict=True)]
    sharp, wide = (foretell(some, "mine", asked(0.0))[0] for some in (points, blind))
    mean = np.mean([p.outcomes.mean() for p in points if p.task == wide.task])
    assert wide.value == pytest.approx(mean, abs=0.12)
    assert np.ptp(wide.interval) > np.ptp(sharp.interval)


def test_the_view_itself_and_controls_are_not_used_and_what_lacks_a_score_is_counted():
    points = study()
    one = foretell(points, points[0].view, asked(0.0))[0]
    assert one.points == len(points) - len(TASKS)
    noisy = Driven(
        "enc1-s@noise2.0", "reach", "policy", np.ones((1, 50)), {"state_probe": 9.0, "policy_mse": 9.0}
    )
    lacking = Driven("enc9-s", "reach", "policy", np.ones((1, 50)), {"state_probe": 0.5})
    more = foretell([*points, noisy, lacking], "mine", asked(0.0))[0]
    assert (more.points, more.missing) == (len(points), 1)
    rows = foretold_rows(points, [one])
    assert [r["success"] for r in rows] == sorted((r["success"] for r in rows), reverse=True)
    assert sum(r["interval"] is not None for r in rows) == 1


def test_too_few_points_are_refused_by_name():
    with pytest.raises(DatasetError, match="at least 20 points"):
        foretell(study(views=4), "mine", asked(0.0))
    with pytest.raises(DatasetError, match=r"tasks=\[lift,push,reach\]"):
        foretell(study(), "mine", asked(0.0, ("reach", "handover")))
    with pytest.raises(DatasetError, match="0 such scores"):
        foretell(study(), "mine", {"reach": {"invariance": 0.3}})
    assert LEAST_VIEWS == 8


def test_one_task_where_all_fail_foretells_failure():
    points = study(tasks={"reach": 0.6, "floor": -2.0})
    low = next(one for one in foretell(points, "mine", asked(0.0, ("floor",))) if one.task == "floor")
    assert low.value < 0.1
    assert low.interval[0] == 0.0
