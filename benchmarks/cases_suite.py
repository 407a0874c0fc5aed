"""Seconds of each stage of a suite, cold and then warm, in one process, beside those of an early version."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from case import Figure
from lary_policy.cli.compose import compose
from lary_policy.runs import run_config, run_suite

# Of commit d94e150 on two cores of an AMD EPYC without AMX: a fresh clone's `make suite`.
BEFORE = {("quick", "cpu"): {"extract": 353.0, "probe": 729.0, "rollout": 406.0}}


def run(suite: str, output_dir: str, device: str) -> Iterator[Figure]:
    """Run the suite in an empty folder under `output_dir`, then again, and yield the seconds of both."""
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=output_dir) as folder:
        raw = compose("suite", [f"suite={suite}", f"output_dir={folder}", f"device={device}"])
        totals = {}
        for name in ("cold", "warm"):
            started = time.perf_counter()
            outcome = run_suite(run_config(raw))
            totals[name] = time.perf_counter() - started
            if name == "cold":
                before = BEFORE.get((suite, device), {})
                for stage, seconds in outcome.stage_seconds.items():
                    yield Figure(f"{stage}_seconds", seconds, "s", baseline=before.get(stage))
    yield Figure("cold_seconds", totals["cold"], "s")
    yield Figure("warm_seconds", totals["warm"], "s", baseline=totals["cold"])
    yield Figure("peak_memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "GiB")
