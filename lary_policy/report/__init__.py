"""The report: reads results, computes its sentences from them, never runs a model."""

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.html import write_report
from lary_policy.report.parts import (
    CodebookUse,
    Confusion,
    ConstantDimension,
    EpisodeFailure,
    Trajectory,
    Video,
    collect_failures,
)

__all__ = [
    "CodebookUse",
    "Confusion",
    "ConstantDimension",
    "EpisodeFailure",
    "ReportBundle",
    "Trajectory",
    "Video",
    "collect_failures",
    "write_report",
]
