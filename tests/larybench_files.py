"""Small files faithful to LARYBench's schemas (protocol sections 1.2 and 1.3), for tests."""

from __future__ import annotations

import csv
from pathlib import Path

from lary_policy.data.larybench.sample import (
    Rows,
    make_agibotbeta,
    make_calvin,
    make_clips,
    make_libero,
    make_robocoin,
    make_vlabench,
    write_csv,
    write_sample,
)

__all__ = [
    "make_agibotbeta", "make_calvin", "make_clips", "make_libero", "make_robocoin", "make_vlabench",
    "read_csv", "to_old_style", "write_csv", "write_sample",
]  # fmt: skip


def read_csv(path: Path) -> Rows:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def to_old_style(path: Path) -> None:
    """Take images/, states/ and actions/ out of a CSV's paths, as in the benchmark's first CSVs."""
    rows = read_csv(path)
    for row in rows:
        for column in ("src_img", "tgt_img", "src_state", "tgt_state", "action"):
            for folder in ("images/", "states/", "actions/"):
                row[column] = row[column].replace(folder, "")
    write_csv(path.parents[1], path.name, rows[0], rows)
