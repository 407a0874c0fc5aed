"""What a run says while it works, where its output is no terminal."""

import threading
import time

import pytest

from lary_policy import console
from lary_policy.console import busy, counted, kept, progress


def test_a_long_step_says_where_it_is_and_a_short_one_only_that_it_ended(capsys, monkeypatch):
    with progress("short"):
        pass
    monkeypatch.setattr(console, "LINE_S", 1.5)  # a line as soon as it looks
    with busy("all of it"), progress("long step") as update:
        update(3, 7)
        deadline = time.monotonic() + 20
        said = ""
        while "so far" not in said and time.monotonic() < deadline:
            time.sleep(0.05)
            said += capsys.readouterr().err
    assert "long step" in said
    assert " 3/7," in said
    assert "all of it" not in said
    after = capsys.readouterr().err
    assert after.count("long step") >= 1


def test_nothing_goes_on_talking_after_the_block(capsys, monkeypatch):
    monkeypatch.setattr(console, "LINE_S", 1.5)
    with pytest.raises(KeyError), busy("fails"):
        raise KeyError
    deadline = time.monotonic() + 5
    while any(t.name == "pulse" for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(t.name == "pulse" for t in threading.enumerate())
    assert "so far" not in capsys.readouterr().err


def test_finished_steps_are_numbered_with_about_how_long_the_rest_takes(capsys):
    with counted() as tally:
        tally.planned = {"extract": 2, "probe": 3}
        kept("extract reach-pixels")
        with progress("extract reach-dinov2"):
            pass
        with progress("probe [a]"):
            time.sleep(0.02)
    lines = capsys.readouterr().err.splitlines()
    assert "[2 of 5] extract reach-dinov2" in lines[0]
    assert "[3 of 5] probe [a]" in lines[1]
    assert all(" s left" in line for line in lines)
    with progress("alone"):
        pass
    assert "[" not in capsys.readouterr().err


def test_what_is_left_counts_each_kind_by_what_it_took():
    with counted() as tally:
        tally.planned = {"probe": 3, "rollout": 2}
        tally._last -= 600
        tally.count("probe a")  # ten minutes
        tally._last -= 60
        tally.count("rollout a")  # one
    assert tally.far == "2 of 5"
    assert tally.left() == ", about 21 min left"
