"""Runs: one configuration, one grid of jobs, one set of cells, whatever is read."""

from __future__ import annotations

from lary_policy.runs.cells import write_result
from lary_policy.runs.collect import collect_demos
from lary_policy.runs.config import SIMULATED, ProbeConfig, RolloutConfig, RunConfig, run_config
from lary_policy.runs.context import RunContext, RunData, machine_facts
from lary_policy.runs.grid import Job
from lary_policy.runs.report import run_report
from lary_policy.runs.results import Results, score_lines
from lary_policy.runs.run import SuiteOutcome, run_suite
from lary_policy.settings import names_of, setting

__all__ = [
    "SIMULATED",
    "Job",
    "ProbeConfig",
    "Results",
    "RolloutConfig",
    "RunConfig",
    "RunContext",
    "RunData",
    "SuiteOutcome",
    "collect_demos",
    "machine_facts",
    "names_of",
    "run_config",
    "run_report",
    "run_suite",
    "score_lines",
    "setting",
    "write_result",
]
