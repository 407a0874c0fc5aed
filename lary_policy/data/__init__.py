"""Datasets as sources of pairs of frames and of clips, with splits."""

from __future__ import annotations

from lary_policy.data.arrays import read_archive
from lary_policy.data.atomic import PRIMITIVES, AtomicConfig, derive_primitives
from lary_policy.data.clips import ClipRow, ClipTable
from lary_policy.data.integrity import (
    CHECKSUMS_FILE,
    DEFAULT_TIMEOUT_S,
    IntegrityReport,
    content_digest,
    require_written,
    table_digest,
    verify_files,
    write_checksums,
)
from lary_policy.data.labels import LabelMap
from lary_policy.data.layout import IMAGES, PathResolver
from lary_policy.data.pairs import PairRow, PairTable
from lary_policy.data.registry import list_sources, open_source, register_source, source_settings
from lary_policy.data.spec import PROTOCOLS, Source, SourceSpec, require_folder, require_protocol
from lary_policy.data.verify import verify_source

__all__ = [
    "CHECKSUMS_FILE",
    "DEFAULT_TIMEOUT_S",
    "IMAGES",
    "PRIMITIVES",
    "PROTOCOLS",
    "AtomicConfig",
    "ClipRow",
    "ClipTable",
    "IntegrityReport",
    "LabelMap",
    "PairRow",
    "PairTable",
    "PathResolver",
    "Source",
    "SourceSpec",
    "content_digest",
    "derive_primitives",
    "list_sources",
    "open_source",
    "read_archive",
    "register_source",
    "require_folder",
    "require_protocol",
    "require_written",
    "source_settings",
    "table_digest",
    "verify_files",
    "verify_source",
    "write_checksums",
]
