"""Datasets, pairs of frames and the latent store."""

from __future__ import annotations

from lary_policy.data.episodes import EpisodeRecord, read_episodes
from lary_policy.data.extract import ExtractReport, extract
from lary_policy.data.extract_pairs import extract_pairs
from lary_policy.data.frames import decode_frame, frame_id, pair_id
from lary_policy.data.integrity import IntegrityReport, verify_dataset, verify_store
from lary_policy.data.pairs import PairRow, PairTable
from lary_policy.data.primitives import PRIMITIVES, derive_primitives
from lary_policy.data.publish import DemonstrationReport
from lary_policy.data.simulated import collect_demonstrations
from lary_policy.data.sources import load_pairs
from lary_policy.data.store import LatentStore
from lary_policy.data.table import LatentTable, load_frames, load_latents

__all__ = [
    "PRIMITIVES",
    "DemonstrationReport",
    "EpisodeRecord",
    "ExtractReport",
    "IntegrityReport",
    "LatentStore",
    "LatentTable",
    "PairRow",
    "PairTable",
    "collect_demonstrations",
    "decode_frame",
    "derive_primitives",
    "extract",
    "extract_pairs",
    "frame_id",
    "load_frames",
    "load_latents",
    "load_pairs",
    "pair_id",
    "read_episodes",
    "verify_dataset",
    "verify_store",
]
