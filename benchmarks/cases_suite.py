"""What each stage of a suite takes, cold and then warm, in one process, beside those of an early version.

A stage is timed by the run that ends with it. Its peak is the largest resident memory of the process while it
ran, which Linux forgets when asked to.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from case import Figure
from lary_policy.cli.compose import compose
from lary_policy.runs import run_config, run_suite
from lary_policy.runs.context import STAGES

# Of commit d94e150 on two cores of an AMD EPYC without AMX: a fresh clone's `make suite`, and its peak.
BEFORE = {("quick", "cpu"): {"extract": 353.0, "probe": 729.0, "rollout": 406.0}}
BEFORE_GIB = {("quick", "cpu"): 6.8e9 / 2**30}
_CLEAR_REFS = Path("/proc/self/clear_refs")  # "5" resets the largest resident memory


def run(suite: str, output_dir: str, device: str) -> Iterator[Figure]:
    """Run the suite in an empty folder under `output_dir` stage by stage, then again; yield the costs."""
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=output_dir) as folder:
        raw = compose("suite", [f"suite={suite}", f"output_dir={folder}", f"device={device}"])
        before, cold, peak = BEFORE.get((suite, device), {}), 0.0, 0.0
        for stage in STAGES:
            _forget_peak()
            cpu = time.process_time()
            seconds = run_suite(run_config(raw), until=stage).stage_seconds[stage]
            yield Figure(f"{stage}_seconds", seconds, "s", baseline=before.get(stage))
            yield Figure(f"{stage}_cpu_seconds", time.process_time() - cpu, "s")
            yield Figure(f"{stage}_peak_memory", _peak_gib(), "GiB")
            cold, peak = cold + seconds, max(peak, _peak_gib())
        started = time.perf_counter()
        run_suite(run_config(raw))
        yield Figure("cold_seconds", cold, "s", baseline=sum(before.values()) or None)
        yield Figure("warm_seconds", time.perf_counter() - started, "s", baseline=cold)
        yield Figure("peak_memory", peak, "GiB", baseline=BEFORE_GIB.get((suite, device)))


def _forget_peak() -> None:
    if _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")


def _peak_gib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines() if _CLEAR_REFS.exists() else []
    peak = next((line for line in lines if line.startswith("VmHWM")), None)
    kib = int(peak.split()[1]) if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 2**20
