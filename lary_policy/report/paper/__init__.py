"""The paper's tables and ours beside them."""

from __future__ import annotations

from lary_policy.report.paper.defects import Defect, defects_of, fault_names
from lary_policy.report.paper.tables import (
    COMPARED,
    SideBySide,
    paper_gap,
    paper_number,
    paper_source,
    reference_keys,
    reproduced,
    side_by_side,
)

__all__ = [
    "COMPARED",
    "Defect",
    "SideBySide",
    "defects_of",
    "fault_names",
    "paper_gap",
    "paper_number",
    "paper_source",
    "reference_keys",
    "reproduced",
    "side_by_side",
]
