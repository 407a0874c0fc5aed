"""Figures of the report page."""

from __future__ import annotations

from lary_policy.report.figures.groups import probe_suite

__all__ = [
    "probe_suite",
]
