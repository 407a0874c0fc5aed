"""`pair` and `policy`: the actions between two frames, or those that follow the present one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lary_policy.runs.questions.registry import Question, register_question

if TYPE_CHECKING:
    from lary_policy.runs.context import RunContext, RunData
    from lary_policy.runs.probe import Probing


def run_actions(probing: Probing) -> dict[str, Any]:
    """Train and evaluate a head that predicts actions."""
    from lary_policy.runs.actions import probe_actions

    return probe_actions(probing)


def of_actions(context: RunContext, _: RunData) -> tuple[Any, ...]:
    """Return what changes the numbers of a head that predicts actions."""
    from lary_policy.runs.cells import digest

    c = context.config
    given = None if c.statistics is None else digest(c.statistics.read_text(encoding="utf-8"))
    return c.rotation, c.unknown_robots, given


register_question(
    Question("pair", "inverse model", "actions", run_actions, of_actions, asks="pair"),
    Question("policy", "policy mode", "actions", run_actions, of_actions, asks="policy"),
)
