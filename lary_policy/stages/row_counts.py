"""Where the rows of a split went, see `lary_policy.runs.rows`."""

from __future__ import annotations

from lary_policy.runs.rows import REASONS, RowCount, count_rows, missing_rows

__all__ = ["REASONS", "RowCount", "count_rows", "missing_rows"]
