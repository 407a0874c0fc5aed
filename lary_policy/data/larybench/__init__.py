"""Sources in LARYBench's own files."""

from __future__ import annotations

from lary_policy.data.larybench.clip_csv import parse_indices
from lary_policy.data.larybench.indices import IndicesReport, write_indices
from lary_policy.data.larybench.pair_csv import load_pairs, read_metadata
from lary_policy.data.larybench.pair_rows import Cells, PairFile, check_fields
from lary_policy.data.larybench.prepare import prepare_clips
from lary_policy.data.larybench.sample import write_sample
from lary_policy.data.larybench.sampling import pad_indices, uniform_indices
from lary_policy.data.larybench.sets import CLIP_FRAMES, BenchmarkSet
from lary_policy.data.larybench.source import LaryBenchSource
from lary_policy.data.larybench.statistics import (
    NO_COLUMN,
    read_statistics,
    stream_statistics,
    table_statistics,
    write_statistics,
)
from lary_policy.data.larybench.verify import verify_benchmark
from lary_policy.data.layout import PathResolver

__all__ = [
    "CLIP_FRAMES",
    "NO_COLUMN",
    "BenchmarkSet",
    "Cells",
    "IndicesReport",
    "LaryBenchSource",
    "PairFile",
    "PathResolver",
    "check_fields",
    "load_pairs",
    "pad_indices",
    "parse_indices",
    "prepare_clips",
    "read_metadata",
    "read_statistics",
    "stream_statistics",
    "table_statistics",
    "uniform_indices",
    "verify_benchmark",
    "write_indices",
    "write_sample",
    "write_statistics",
]
