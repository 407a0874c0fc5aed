"""Scores, their metrics and their intervals."""

from __future__ import annotations

from lary_policy.scores.actions import (
    ActionEvaluation,
    ClassEvaluation,
    action_estimates,
    evaluate_action,
    evaluate_class,
    reference_row,
)
from lary_policy.scores.classes import ClassScores, tail_buckets, tail_f1, top_k_accuracy, train_counts
from lary_policy.scores.intervals import (
    Estimate,
    bootstrap_macro_ci,
    bootstrap_mean_ci,
    mmrv,
    pearson,
    wilson_ci,
)
from lary_policy.scores.metrics import (
    format_number,
    format_score,
    join_words,
    metric_info,
    mode_label,
    target_label,
)
from lary_policy.scores.ratios import bootstrap_f1_ci, bootstrap_ratio_ci
from lary_policy.scores.score import Score

__all__ = [
    "ActionEvaluation",
    "ClassEvaluation",
    "ClassScores",
    "Estimate",
    "Score",
    "action_estimates",
    "bootstrap_f1_ci",
    "bootstrap_macro_ci",
    "bootstrap_mean_ci",
    "bootstrap_ratio_ci",
    "evaluate_action",
    "evaluate_class",
    "format_number",
    "format_score",
    "join_words",
    "metric_info",
    "mmrv",
    "mode_label",
    "pearson",
    "reference_row",
    "tail_buckets",
    "tail_f1",
    "target_label",
    "top_k_accuracy",
    "train_counts",
    "wilson_ci",
]
