"""Scores, their metrics and their intervals."""

from __future__ import annotations

from lary_policy.scores.actions import ActionEvaluation, evaluate_action
from lary_policy.scores.agreement import SampleScores, correlation, mmrv, paired_difference
from lary_policy.scores.classes import ClassEvaluation, ClassScores, evaluate_class, tail_buckets
from lary_policy.scores.foretelling import (
    STATISTICS,
    Points,
    Reading,
    difference,
    partial_correlation,
    readings,
    without_each,
)
from lary_policy.scores.intervals import (
    CLAIM_CLUSTERS,
    Estimate,
    bootstrap_f1_ci,
    bootstrap_macro_ci,
    bootstrap_mean_ci,
    bootstrap_ratio_ci,
    wilson_ci,
)
from lary_policy.scores.metrics import (
    Metric,
    estimates,
    format_number,
    format_score,
    join_words,
    list_metrics,
    metric_info,
    mode_label,
    name_mode,
    register_metric,
    success_estimates,
    target_label,
)
from lary_policy.scores.proxies import Proxy, find_proxy, list_proxies, register_proxy
from lary_policy.scores.score import Score
from lary_policy.scores.sequential import is_decided, paired_evidence

__all__ = [
    "CLAIM_CLUSTERS",
    "STATISTICS",
    "ActionEvaluation",
    "ClassEvaluation",
    "ClassScores",
    "Estimate",
    "Metric",
    "Points",
    "Proxy",
    "Reading",
    "SampleScores",
    "Score",
    "bootstrap_f1_ci",
    "bootstrap_macro_ci",
    "bootstrap_mean_ci",
    "bootstrap_ratio_ci",
    "correlation",
    "difference",
    "estimates",
    "evaluate_action",
    "evaluate_class",
    "find_proxy",
    "format_number",
    "format_score",
    "is_decided",
    "join_words",
    "list_metrics",
    "list_proxies",
    "metric_info",
    "mmrv",
    "mode_label",
    "name_mode",
    "paired_difference",
    "paired_evidence",
    "partial_correlation",
    "readings",
    "register_metric",
    "register_proxy",
    "success_estimates",
    "tail_buckets",
    "target_label",
    "wilson_ci",
    "without_each",
]
