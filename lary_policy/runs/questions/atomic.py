"""`atomic` and `composite`: the primitive between two frames, or the action that a clip shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lary_policy.runs.questions.registry import Question, register_question

if TYPE_CHECKING:
    from lary_policy.runs.context import RunContext, RunData
    from lary_policy.runs.probe import Probing


def run_classes(probing: Probing) -> dict[str, Any]:
    """Train and evaluate a head that predicts classes."""
    from lary_policy.runs.classes import probe_classes

    return probe_classes(probing)


def of_classes(context: RunContext, _: RunData) -> tuple[Any, ...]:
    """Return what changes the result of a head that predicts classes."""
    return (context.config.attention,)


register_question(
    Question(
        "atomic", "atomic primitives", "classes", run_classes, of_classes, asks="atomic", targets=("class",)
    ),
    Question(
        "composite", "composite actions", "classes", run_classes, of_classes, asks="composite", kind="clips",
        targets=("class",),
    ),
)  # fmt: skip
