"""Processes that share waves: results come in order, and nobody waits for one that is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lary_policy.errors import SimulationError, StoreError
from lary_policy.machine import leave_if_asked
from lary_policy.rollout.crew import Crew

FIRST = "lary_policy.rollout.crew"


def work(item):
    if item == "stuck":
        while True:
            leave_if_asked()
            time.sleep(0.01)
    if item == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "named":
        raise StoreError(expected="a file", got="none", fix="Write it.")
    time.sleep(0.02 * (10 - item))  # the first ones take longest
    return item, os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


def test_results_come_in_order_and_each_process_has_its_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-b")
    with Crew(2, "cuda", [FIRST]) as crew:
        items, processes, gpus = zip(*crew.each(work, range(8)), strict=True)
        assert items == tuple(range(8))
        assert len(set(zip(processes, gpus, strict=True))) == len(set(processes)) == 2
        assert set(gpus) == {"3", "GPU-b"}
        waves = crew.each(work, [9, 8, 7])
        assert next(waves)[0] == 9
        waves.close()  # who has seen enough waits for those that were begun
        with pytest.raises(StoreError, match="Write it"):
            list(crew.each(work, ["named", "stuck"]))


def test_a_process_that_is_killed_is_named():
    with Crew(2, "cpu", [FIRST]) as crew, pytest.raises(SimulationError, match=r"memory.*finished waves are"):
        list(crew.each(work, ["killed", 9]))


def test_an_error_of_the_caller_ends_what_runs():
    def fail():
        with Crew(2, "cpu", [FIRST]) as crew:
            assert next(crew.each(work, [9]))[0] == 9
            crew._pool.submit(work, "stuck")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()


LOST = """
import os, sys
from test_crew import Crew, FIRST, work
if __name__ == "__main__":
    with Crew(2, "cpu", [FIRST]) as crew:
        print(next(crew.each(work, [9]))[1], flush=True)
        list(crew.each(work, ["stuck"]))
"""


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path):
    (tmp_path / "lost.py").write_text(LOST)
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    started = subprocess.Popen(
        [sys.executable, tmp_path / "lost.py"], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    pid = int(started.stdout.readline())
    started.kill()
    started.wait()
    until = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
