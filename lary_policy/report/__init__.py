"""The report: reads results, computes its sentences from them, never runs a model."""

from __future__ import annotations

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.compare import Measured
from lary_policy.report.page import write_report
from lary_policy.report.parts import (
    Attention,
    ClassTail,
    CodebookUse,
    Composition,
    Confusion,
    ConstantDimension,
    EpisodeFailure,
    HeadInfo,
    SplitSize,
    Trajectory,
    Video,
    collect_failures,
)

__all__ = [
    "Attention",
    "ClassTail",
    "CodebookUse",
    "Composition",
    "Confusion",
    "ConstantDimension",
    "EpisodeFailure",
    "HeadInfo",
    "Measured",
    "ReportBundle",
    "SplitSize",
    "Trajectory",
    "Video",
    "collect_failures",
    "write_report",
]
