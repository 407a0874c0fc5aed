"""The registry of questions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lary_policy.actions import list_action_targets
from lary_policy.errors import look_up
from lary_policy.paths import import_modules
from lary_policy.scores import name_mode

if TYPE_CHECKING:
    from lary_policy.runs.context import RunContext, RunData
    from lary_policy.runs.probe import Probing


@dataclass(frozen=True)
class Question:
    """One question, asked of every view alike.

    Attributes:
        name: As in `probes=[{mode: <name>, ...}]`, and the mode of its scores.
        words: For tables and sentences.
        about: What the data must have: `actions`, `classes`, a `scene` whose state has names, or `looks` that
            can be changed.
        run: Answers it: trains or loads a head and returns the result of its cell.
        depends: What the answer depends on beside latents, head and seed; part of the cell's key.
        asks: What the head is asked, one of `lary_policy.heads.QUESTIONS`; None where there is no head.
        kind: Rows it is asked of: `pairs` or `clips`.
        targets: What can be predicted; empty for the targets of actions.
    """

    name: str
    words: str
    about: str
    run: Callable[[Probing], dict[str, Any]]
    depends: Callable[[RunContext, RunData], tuple[Any, ...]]
    asks: str | None
    kind: str = "pairs"
    targets: tuple[str, ...] = ()

    @property
    def every_target(self) -> Sequence[str]:
        """What can be predicted."""
        return self.targets or list_action_targets()

    def fits(self, about: Sequence[str], kind: str) -> bool:
        """Tell whether data that know of `about`, in rows of a kind, can be asked."""
        return self.about in about and self.kind == kind


_QUESTIONS: dict[str, Question] = {}


def register_question(*questions: Question) -> None:
    """Make questions known under their names."""
    for one in questions:
        _QUESTIONS[one.name] = one
        name_mode(one.name, one.words)


@functools.cache
def list_questions() -> Mapping[str, Question]:
    """Return every question by name: what the modules of this package register."""
    import_modules("lary_policy.runs.questions")
    return _QUESTIONS


def find_question(name: str) -> Question:
    """Return a question.

    Raises:
        UnknownNameError: There is none of that name; the message lists the known ones.
    """
    return look_up("probe mode", name, list_questions())
