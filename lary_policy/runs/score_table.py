"""Scores of a run on the terminal, best encoder first."""

from __future__ import annotations

from collections.abc import Sequence

from lary_policy.scores import Score, format_score, metric_info

HEADLINES = ("mse", "top1", "success")  # one number of each kind of cell; the report has the others


def score_lines(scores: Sequence[Score]) -> list[str]:
    """Return a line for each headline score, in columns.

    Scores that can be compared stand together (same stage, task, mode, target, metric and split), the best
    encoder first.

    Args:
        scores: Of any probes and rollouts.
    """
    rows = [
        (s.stage, s.task, f"{s.mode}/{s.target}", s.head, s.encoder, f"{s.metric} {format_score(s)}")
        for s in sorted((s for s in scores if s.metric in HEADLINES), key=_order)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _order(score: Score) -> tuple[object, ...]:
    sign = -1 if metric_info(score.metric).higher_is_better else 1
    same = (score.stage, score.task, score.mode, score.target, score.metric, score.split, score.protocol)
    return (*same, sign * score.value)
