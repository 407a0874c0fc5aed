"""Results of the finished cells of a run, as plain data: all that its report and its tables are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lary_policy.console import kept
from lary_policy.errors import ConfigError
from lary_policy.scores import Score, format_score, metric_info

Result = Mapping[str, Any]


@dataclass
class Results:
    """Results of all finished cells of a run, in the order in which they were finished.

    Attributes:
        data: One entry a simulated task: `task`, `seconds` and the episodes that were left out (`failed`).
        extract: One entry an encoder view and source.
        probe: One entry a head.
        rollout: One entry a closed loop.
        finished_only: Whether unfinished cells are left out instead of computed.
        unfinished: The cells that were left out for that reason.
        notes: What a reader must know of how the run was set up.
        pending: How far a run is that still goes on, e.g. `3 of 27`; empty in the end.
        warnings: What a reader must know before any number.
    """

    data: list[Result] = field(default_factory=list)
    extract: list[Result] = field(default_factory=list)
    probe: list[Result] = field(default_factory=list)
    rollout: list[Result] = field(default_factory=list)
    finished_only: bool = False
    unfinished: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pending: str = ""
    warnings: list[str] = field(default_factory=list)

    def wants(self, name: str, done: bool) -> bool:
        """Tell whether a cell belongs to this run; one that is left out is noted in `unfinished`."""
        if self.finished_only and not done:
            self.unfinished.append(name)
        if done:
            kept(name)
        return done or not self.finished_only

    def stage_seconds(self) -> dict[str, float]:
        """Return the seconds each stage took when its cells were computed."""
        return {stage: float(sum(r["seconds"] for r in rows)) for stage, rows in self._stages().items()}

    def scores(self) -> list[Score]:
        """Return the scores of all probes and rollouts."""
        return [Score.from_dict(s) for r in (*self.probe, *self.rollout) for s in r["scores"]]

    def require_some(self) -> None:
        """Raise unless there is something to report: of finished cells only, at least one number.

        Raises:
            ConfigError: Nothing is finished.
        """
        found = {stage: len(rows) for stage, rows in self._stages().items() if rows}
        if self.probe or self.rollout or (found and not self.finished_only):
            return
        done = ", ".join(f"{count} of stage {stage}" for stage, count in found.items()) or "nothing"
        missing = f", not finished: {', '.join(self.unfinished)}" if self.unfinished else ""
        raise ConfigError(
            expected="a finished probe or rollout of these settings to report",
            got=f"finished: {done}{missing}",
            fix="Run `lary suite` with the same settings first.",
        )

    def _stages(self) -> dict[str, list[Result]]:
        return {"data": self.data, "extract": self.extract, "probe": self.probe, "rollout": self.rollout}


HEADLINES = ("mse", "top1", "success")  # one number of each kind of cell; the report has the others


def score_lines(scores: Sequence[Score]) -> list[str]:
    """Return a line for each headline score, in columns.

    Scores that can be compared stand together (same stage, task, mode, target, metric and split), the best
    encoder first. Of scores of both protocols each says its own.

    Args:
        scores: Of any probes and rollouts.
    """
    several = len({s.protocol for s in scores}) > 1
    rows = [
        (
            s.stage,
            f"{s.task}, {s.protocol}" if several else s.task,
            f"{s.mode}/{s.target}",
            s.head,
            s.encoder,
            f"{s.metric} {format_score(s)}",
        )
        for s in sorted((s for s in scores if s.metric in HEADLINES), key=_order)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _order(score: Score) -> tuple[object, ...]:
    sign = -1 if metric_info(score.metric).higher_is_better else 1
    same = (score.stage, score.task, score.mode, score.target, score.metric, score.split, score.protocol)
    return (*same, sign * score.value)
