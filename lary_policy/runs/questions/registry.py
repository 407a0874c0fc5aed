"""The registry of questions, and how a run asks one: with which head, target and training rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lary_policy.actions import list_action_targets
from lary_policy.errors import ConfigError, UnknownNameError, look_up
from lary_policy.heads import HeadConfig
from lary_policy.paths import import_modules
from lary_policy.scores import name_mode
from lary_policy.types import LatentSpec

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
        of_frames: Whether it is about the latent of one frame, which encoders of two frames have not.
    """

    name: str
    words: str
    about: str
    run: Callable[[Probing], dict[str, Any]]
    depends: Callable[[RunContext, RunData], tuple[Any, ...]]
    asks: str | None
    kind: str = "pairs"
    targets: tuple[str, ...] = ()
    of_frames: bool = False

    @property
    def every_target(self) -> Sequence[str]:
        """What can be predicted."""
        return self.targets or list_action_targets()

    def fits(self, about: Sequence[str], kind: str) -> bool:
        """Tell whether data that know of `about`, in rows of a kind, can be asked."""
        return self.about in about and self.kind == kind

    def fits_latent(self, latent: LatentSpec) -> bool:
        """Tell whether an encoder's latents can be asked."""
        return latent.kind == "frame" or not self.of_frames


WINDOWS = ("chunks", "dense")  # where the training chunks of a policy head start
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


@dataclass(frozen=True)
class ProbeConfig:
    """One question and the head that answers it.

    Attributes:
        mode: A question of `lary_policy.runs.questions`: `pair` (source and target frame to the actions
            between), `policy` (present frame to the next actions), `atomic` (class of a pair), `composite`
            (class of a clip), `state`, `forward`, `inverse-critical`, `policy-critical`, `invariance`.
        target: What of the actions, see `list_action_targets`; `class` for classes, otherwise see there.
        head: Name of a file of configs/head; `none` for questions without a head.
        proprio: Whether the head also sees the measured pose at the source frame.
        windows: Where the chunks start that a policy head of a task learns from: `chunks`, one after the
            other, or `dense`, at every control step. That is `stride` times the frames to encode; all heads
            are chosen and judged on the same chunks.
    """

    mode: str
    target: str
    head: str
    proprio: bool = False
    windows: str = WINDOWS[0]

    def __post_init__(self) -> None:
        if self.windows not in WINDOWS:
            raise UnknownNameError("windows of a probe", self.windows, WINDOWS)
        if self.windows != WINDOWS[0] and find_question(self.mode).asks != "policy":
            raise ConfigError(
                expected=f"windows={self.windows} of a question about the present frame alone",
                got=f"mode {self.mode}",
                fix="Leave windows out.",
            )
        targets = find_question(self.mode).every_target
        if self.target not in targets:
            raise UnknownNameError(f"target of a {self.mode} probe", self.target, targets)


@dataclass(frozen=True)
class NoModel:
    """Stands for the head of a question that has none."""

    kind: ClassVar[str] = "none"
    label: ClassVar[str] = "none"


NO_HEAD = HeadConfig(NoModel())


@dataclass(frozen=True)
class Probe:
    """A question with its head's configuration; `ProbeConfig` after the names were looked up."""

    mode: str
    target: str
    head: HeadConfig
    proprio: bool = False
    windows: str = WINDOWS[0]

    @property
    def dense(self) -> bool:
        """Whether it learns from every control step."""
        return self.windows != WINDOWS[0]

    @property
    def head_label(self) -> str:
        """What scores call the head; one that learns from every control step is another."""
        return self.head.label + (f"-{self.windows}" if self.dense else "")

    @property
    def about(self) -> str:
        """What its data must have: `actions`, `classes` or a `scene`."""
        return find_question(self.mode).about

    @property
    def label(self) -> str:
        """Readable name, e.g. `policy-relative-mlp512-project32-proprio`."""
        return f"{self.mode}-{self.target}-{self.head_label}{'-proprio' if self.proprio else ''}"
