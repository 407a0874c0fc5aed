import os
import time

import pytest

from lary_policy.data.parallel import Failure, TimedOut, for_each
from lary_policy.errors import ConfigError


def work(item):
    if item == "slow":
        time.sleep(60)
    if item == "crash":
        os._exit(7)
    if item == "raise":
        raise ValueError("bad file")
    return item.upper()


ITEMS = ["a", "slow", "b", "crash", "c", "raise", *"defghij"]


def test_slow_crashing_and_raising_items_leave_the_others_alone():
    found = dict(for_each(work, ITEMS, workers=2, timeout_s=1.5))
    assert sorted(found) == list(range(len(ITEMS)))
    assert found[1] == TimedOut("took longer than 1.5 s")
    assert found[3] == Failure("the process that read it ended with exit code 7")
    assert found[5] == Failure("ValueError: bad file")
    good = [i for i in found if i not in (1, 3, 5)]
    assert [found[i] for i in sorted(good)] == [ITEMS[i].upper() for i in sorted(good)]


def test_without_workers_all_runs_here_in_order():
    assert list(for_each(work, ["a", "raise"], workers=0, timeout_s=1)) == [
        (0, "A"),
        (1, Failure("ValueError: bad file")),
    ]
    assert list(for_each(work, [], workers=3, timeout_s=1)) == []


def test_processes_end_when_the_caller_stops_listening():
    results = for_each(work, list("abcdef"), workers=1, timeout_s=30)
    assert next(results) == (0, "A")
    results.close()


@pytest.mark.parametrize(("workers", "timeout_s"), [(-1, 1.0), (1, 0.0)])
def test_nonsense_is_a_config_error(workers, timeout_s):
    with pytest.raises(ConfigError, match="workers >= 0"):
        list(for_each(work, ["a"], workers=workers, timeout_s=timeout_s))
