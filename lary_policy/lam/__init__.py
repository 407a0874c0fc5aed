"""Latent action models: what happened between two frames, learned from frames alone."""

from __future__ import annotations

from lary_policy.lam.config import LamConfig
from lary_policy.lam.files import CARD, SHEET_ROWS, plain_history, save_lam, write_sheet
from lary_policy.lam.footage import (
    Footage,
    PairSampler,
    Recorded,
    recorded_clips,
    recorded_pairs,
    seen_pairs,
)
from lary_policy.lam.registry import (
    FramePair,
    LamKind,
    LamModule,
    LamScore,
    lam_kind,
    list_lams,
    register_lam,
)
from lary_policy.lam.trainer import LamRecord, LamRun, look, scores, train_lam
from lary_policy.paths import import_modules

import_modules(__name__)

__all__ = [
    "CARD",
    "SHEET_ROWS",
    "Footage",
    "FramePair",
    "LamConfig",
    "LamKind",
    "LamModule",
    "LamRecord",
    "LamRun",
    "LamScore",
    "PairSampler",
    "Recorded",
    "lam_kind",
    "list_lams",
    "look",
    "plain_history",
    "recorded_clips",
    "recorded_pairs",
    "register_lam",
    "save_lam",
    "scores",
    "seen_pairs",
    "train_lam",
    "write_sheet",
]
