"""Datasets, pairs of frames and the latent store."""

from __future__ import annotations

from lary_policy.data.clips import ClipRow, ClipTable
from lary_policy.data.episodes import EpisodeRecord, read_episodes
from lary_policy.data.extract import ExtractReport, extract
from lary_policy.data.extract_pairs import extract_pairs
from lary_policy.data.frames import clip_frame_id, clip_id, decode_frame, frame_id, pair_id
from lary_policy.data.integrity import IntegrityReport
from lary_policy.data.labels import LabelMap
from lary_policy.data.pair_csv import load_pairs
from lary_policy.data.pairs import PairRow, PairTable
from lary_policy.data.primitives import PRIMITIVES, derive_primitives
from lary_policy.data.publish import DemonstrationReport
from lary_policy.data.simulated import collect_demonstrations
from lary_policy.data.source import Source, SourceSpec, list_sources, open_source, register_source
from lary_policy.data.store import LatentStore
from lary_policy.data.table import LatentTable, load_frames, load_latents
from lary_policy.data.verify_dataset import verify_dataset
from lary_policy.data.verify_store import verify_store

__all__ = [
    "PRIMITIVES",
    "ClipRow",
    "ClipTable",
    "DemonstrationReport",
    "EpisodeRecord",
    "ExtractReport",
    "IntegrityReport",
    "LabelMap",
    "LatentStore",
    "LatentTable",
    "PairRow",
    "PairTable",
    "Source",
    "SourceSpec",
    "clip_frame_id",
    "clip_id",
    "collect_demonstrations",
    "decode_frame",
    "derive_primitives",
    "extract",
    "extract_pairs",
    "frame_id",
    "list_sources",
    "load_frames",
    "load_latents",
    "load_pairs",
    "open_source",
    "pair_id",
    "read_episodes",
    "register_source",
    "verify_dataset",
    "verify_store",
]
