"""Closed loops of a run."""

from __future__ import annotations

from lary_policy.runs.rollout.loops import Loop, loops_of
from lary_policy.runs.rollout.stage import run_rollout, run_rollouts, split_label, success_scores

__all__ = ["Loop", "loops_of", "run_rollout", "run_rollouts", "split_label", "success_scores"]
