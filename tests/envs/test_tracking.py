"""The figures of envs/README.md: how closely every simulated robot follows its targets."""

import dataclasses

import pytest

from lary_envs.tasks.spec import list_tasks, task_spec
from lary_envs.tools.tracking import measure_tracking
from lary_policy.errors import UnknownNameError

EMBODIMENTS = sorted({task_spec(task).embodiment for task in list_tasks()})


@pytest.mark.parametrize("embodiment", EMBODIMENTS)
def test_arms_follow_within_2_mm_and_settle_within_half_a_millimetre(embodiment):
    report = measure_tracking(embodiment, paths=24)
    assert report.median_speed_m_s > 0.1
    assert report.max_speed_m_s > 0.4
    assert 0 < report.moving_median_mm < 2
    assert report.moving_median_mm < report.moving_p95_mm < 6
    assert report.moving_median_deg < 1
    assert 0 <= report.settled_median_mm <= report.settled_max_mm < 0.5


def test_report_is_repeatable_and_depends_on_the_seed():
    first, again, other = (measure_tracking("arm7", paths=3, seed=s) for s in (1, 1, 2))
    assert first == again
    assert dataclasses.replace(other, embodiment="arm7") != first


def test_unknown_embodiment_is_refused():
    with pytest.raises(UnknownNameError, match="arm7"):
        measure_tracking("arm8")
