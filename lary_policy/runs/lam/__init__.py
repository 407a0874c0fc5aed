"""Latent action models of a run."""

from __future__ import annotations

from lary_policy.runs.lam.train import LamOutcome, run_lam

__all__ = ["LamOutcome", "run_lam"]
