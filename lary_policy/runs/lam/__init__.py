"""Latent action models of a run."""

from __future__ import annotations

from lary_policy.runs.lam.points import lam_points
from lary_policy.runs.lam.train import LamOutcome, run_lam

__all__ = ["LamOutcome", "lam_points", "run_lam"]
