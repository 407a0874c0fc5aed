"""Latents: the loop from windows of frames to the store, and from the store to samples."""

from __future__ import annotations

from lary_policy.latents.bank import (
    Bank,
    RamBudget,
    StoredLatents,
    load_bank,
    ram_budget,
    tell_what_stays_on_disk,
)
from lary_policy.latents.cluster import Cluster, encode_on_cluster
from lary_policy.latents.components import COMPONENTS, Components
from lary_policy.latents.encode import ExtractReport, Window, WindowEncoder, WindowKind, encode_windows
from lary_policy.latents.places import Place
from lary_policy.latents.plan import (
    CLIPS,
    FRAMES,
    HISTORIES,
    PAIRS,
    encode_tables,
    good_batch_size,
    health_of,
    joined_latent,
    of_frames,
    open_store,
    seen_of,
    store_dtype,
    store_is_whole,
    store_path,
    stored_latent,
    window_id,
)
from lary_policy.latents.reference import import_fingerprint, import_latents
from lary_policy.latents.samples import LatentTable, load_frames, load_latents
from lary_policy.latents.store import STORE_DTYPES, LatentStore
from lary_policy.latents.verify import verify_store

__all__ = [
    "CLIPS",
    "COMPONENTS",
    "FRAMES",
    "HISTORIES",
    "PAIRS",
    "STORE_DTYPES",
    "Bank",
    "Cluster",
    "Components",
    "ExtractReport",
    "LatentStore",
    "LatentTable",
    "Place",
    "RamBudget",
    "StoredLatents",
    "Window",
    "WindowEncoder",
    "WindowKind",
    "encode_on_cluster",
    "encode_tables",
    "encode_windows",
    "good_batch_size",
    "health_of",
    "import_fingerprint",
    "import_latents",
    "joined_latent",
    "load_bank",
    "load_frames",
    "load_latents",
    "of_frames",
    "open_store",
    "ram_budget",
    "seen_of",
    "store_dtype",
    "store_is_whole",
    "store_path",
    "stored_latent",
    "tell_what_stays_on_disk",
    "verify_store",
    "window_id",
]
