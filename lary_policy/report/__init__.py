"""The report: reads results, computes its sentences from them, never runs a model."""

from __future__ import annotations

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.compare import Measured
from lary_policy.report.driven import belonging
from lary_policy.report.foretell import Foretold, foretell, foretold_rows, require_points
from lary_policy.report.latent_actions import LamPoint
from lary_policy.report.origin import Origin
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
from lary_policy.report.points import (
    POINTS_FILE,
    StudyPoint,
    loop_key,
    merge_points,
    points_bundle,
    read_points,
    study_points,
    write_points,
)

__all__ = [
    "POINTS_FILE",
    "Attention",
    "ClassTail",
    "CodebookUse",
    "Composition",
    "Confusion",
    "ConstantDimension",
    "EpisodeFailure",
    "Foretold",
    "HeadInfo",
    "LamPoint",
    "Measured",
    "Origin",
    "ReportBundle",
    "SplitSize",
    "StudyPoint",
    "Trajectory",
    "Video",
    "belonging",
    "collect_failures",
    "foretell",
    "foretold_rows",
    "loop_key",
    "merge_points",
    "points_bundle",
    "read_points",
    "require_points",
    "study_points",
    "write_points",
    "write_report",
]
