"""Runs: which cells there are, what is finished, and the report of it."""

from __future__ import annotations

from lary_policy.runs.report import run_report
from lary_policy.runs.results import Results

__all__ = ["Results", "run_report"]
