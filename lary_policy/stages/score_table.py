"""Scores of a run on the terminal, best encoder first."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from lary_policy.report.labels import format_score, metric_info
from lary_policy.types import Score

HEADLINES = ("mse", "top1", "success")  # one number of each kind of cell; the report has the others


def score_table(scores: Sequence[Score]) -> Table | None:
    """Return a table of the headline scores, or None without any.

    Cells that can be compared stand together (same stage, task, mode, target, head and split), the best
    encoder first.

    Args:
        scores: Of any probes and rollouts.
    """
    rows = [score for score in scores if score.metric in HEADLINES]
    if not rows:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("stage", "task", "mode", "target", "head", "encoder"):
        table.add_column(title, overflow="fold")
    table.add_column("score", no_wrap=True)
    for score in sorted(rows, key=_order):
        value = f"{score.metric} {format_score(score)}"
        table.add_row(score.stage, score.task, score.mode, score.target, score.head, score.encoder, value)
    return table


def _order(score: Score) -> tuple[object, ...]:
    sign = -1 if metric_info(score.metric).higher_is_better else 1
    return (
        score.stage, score.task, score.mode, score.target, score.metric, score.split, score.protocol,
        sign * score.value,
    )  # fmt: skip
