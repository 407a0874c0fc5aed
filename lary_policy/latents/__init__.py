"""Latents: the loop from windows of frames to the store, and from the store to samples."""

from __future__ import annotations

from lary_policy.latents.bank import Bank, RamBudget, ram_budget, tell_what_stays_on_disk
from lary_policy.latents.encode import (
    ExtractReport,
    FrameEncoder,
    Window,
    extract,
    extract_pairs,
    extract_windows,
    identify,
    window_id,
)
from lary_policy.latents.plan import (
    clip_latent,
    extract_clips,
    extract_tables,
    frames_of,
    health_of,
    load_clips,
    of_frames,
    store_dtype,
    store_folder,
    stored_latent,
)
from lary_policy.latents.reference import import_fingerprint, import_latents
from lary_policy.latents.samples import LatentTable, load_frames, load_latents
from lary_policy.latents.store import STORE_DTYPES, LatentStore
from lary_policy.latents.verify import verify_store

__all__ = [
    "STORE_DTYPES",
    "Bank",
    "ExtractReport",
    "FrameEncoder",
    "LatentStore",
    "LatentTable",
    "RamBudget",
    "Window",
    "clip_latent",
    "extract",
    "extract_clips",
    "extract_pairs",
    "extract_tables",
    "extract_windows",
    "frames_of",
    "health_of",
    "identify",
    "import_fingerprint",
    "import_latents",
    "load_clips",
    "load_frames",
    "load_latents",
    "of_frames",
    "ram_budget",
    "store_dtype",
    "store_folder",
    "stored_latent",
    "tell_what_stays_on_disk",
    "verify_store",
    "window_id",
]
