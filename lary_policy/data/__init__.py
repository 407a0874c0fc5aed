"""Datasets as sources of pairs of frames and of clips, with splits."""

from __future__ import annotations

from lary_policy.data.atomic import PRIMITIVES, AtomicConfig, derive_primitives
from lary_policy.data.clips import ClipRow, ClipTable
from lary_policy.data.integrity import DEFAULT_TIMEOUT_S, IntegrityReport, content_digest, table_digest
from lary_policy.data.labels import LabelMap
from lary_policy.data.layout import IMAGES, PathResolver
from lary_policy.data.pairs import PairRow, PairTable
from lary_policy.data.registry import list_sources, open_source, register_source
from lary_policy.data.spec import PROTOCOLS, Source, SourceSpec, require_folder, require_protocol
from lary_policy.data.verify import verify_source

__all__ = [
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
    "register_source",
    "require_folder",
    "require_protocol",
    "table_digest",
    "verify_source",
]
