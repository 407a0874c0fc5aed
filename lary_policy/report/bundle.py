"""Everything a report shows, checked on construction: a wrong number stops here, not on the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lary_policy.errors import ConfigError, ShapeError
from lary_policy.report.parts import (
    Attention,
    ClassTail,
    CodebookUse,
    Composition,
    Confusion,
    ConstantDimension,
    EpisodeFailure,
    HeadInfo,
    SplitSize,
    Trajectory,
    Video,
    build,
    to_rows,
)
from lary_policy.scores import Score
from lary_policy.types import Quarantined

RATE_METRICS = frozenset({"success", "success_at_end", "top1", "top1_macro", "f1_macro"})
_ROUNDING = 1e-9  # an interval computed in floating point may miss its own value by this much

ScoreKey = tuple[str | int, ...]


def score_key(score: Score) -> ScoreKey:
    """Return what makes a score unique in a report: everything but the numbers and the fingerprint."""
    return (
        score.stage,
        score.encoder,
        score.head,
        score.embodiment,
        score.task,
        score.mode,
        score.target,
        score.metric,
        score.split,
        score.seed,
        score.protocol,
    )


def check_score(score: Score) -> None:
    """Raise ShapeError unless the score is finite, its interval holds its value and rates lie in [0, 1]."""
    low, high = score.ci95
    where = " ".join(str(part) for part in score_key(score))
    numbers = (score.value, low, high, score.seconds)
    if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
        raise ShapeError(
            expected=f"finite Python numbers as value, interval and seconds of score '{where}'",
            got=f"value {score.value}, interval [{low}, {high}], seconds {score.seconds}",
            fix="Find the failed training or rollout in its log and run it again.",
        )
    slack = _ROUNDING * max(1.0, abs(score.value))
    if not low - slack <= score.value <= high + slack:
        raise ShapeError(
            expected=f"an interval that contains the value of score '{where}'",
            got=f"value {score.value}, interval [{low}, {high}]",
            fix="Compute value and interval from the same samples.",
        )
    if score.metric in RATE_METRICS and not -slack <= low <= high <= 1 + slack:
        raise ShapeError(
            expected=f"a rate between 0 and 1 in score '{where}'",
            got=f"value {score.value}, interval [{low}, {high}]",
            fix="Give rates as fractions, not as percent.",
        )
    if score.n < 1:
        raise ShapeError(
            expected=f"at least one sample behind score '{where}'",
            got=f"n = {score.n}",
            fix="Leave out scores that were not measured.",
        )


def check_scores(scores: Sequence[Score]) -> None:
    """Check every score and that no two have the same key.

    Raises:
        ShapeError: A number is not finite, outside its interval or not a rate.
        ConfigError: Two scores claim to be the same measurement.
    """
    seen: dict[ScoreKey, Score] = {}
    for score in scores:
        check_score(score)
        twin = seen.setdefault(score_key(score), score)
        if twin is not score:
            raise ConfigError(
                expected="one score a stage, encoder, head, task, mode, target, metric, split and seed",
                got=f"two for '{' '.join(str(part) for part in score_key(score))}': {twin.value} "
                f"(fingerprint {twin.fingerprint}) and {score.value} (fingerprint {score.fingerprint})",
                fix="Remove the outdated result folder, or report the two runs separately.",
            )


@dataclass(frozen=True)
class ReportBundle:
    """Everything one report shows.

    Attributes:
        title: Heading of the page.
        suite: Name of the suite, e.g. `quick`.
        scores: All scores; the tables, sentences and plots are computed from them.
        trajectories: Predicted against true actions; those of the same episode are drawn together.
        confusions: Confusion matrices of the atomic probe.
        videos: mp4 files to embed.
        quarantined: Inputs that were set aside.
        inputs_checked: How many inputs were looked at, or None when that was not recorded.
        failures: Episodes stopped for a named reason.
        constant_dims: Action dimensions without variation in the training data.
        codebooks: Use of the codes of quantised encoders.
        heads: The heads behind the scores of probes on files.
        tails: F1 of each class with its frequency.
        attention: Where class heads look.
        splits: How much each split of the datasets holds.
        compositions: What they are made of.
        stage_seconds: Wall-clock seconds a stage.
        environment: Versions, device, git sha, seeds: whatever is needed to repeat the run.
        config_yaml: The resolved configuration.
        notes: Sentences added by the run, shown as they are.
        closed_loop: Whether there is a world in which heads can succeed; recorded files have none.
    """

    title: str
    suite: str
    scores: tuple[Score, ...]
    trajectories: tuple[Trajectory, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    videos: tuple[Video, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    inputs_checked: int | None = None
    failures: tuple[EpisodeFailure, ...] = ()
    constant_dims: tuple[ConstantDimension, ...] = ()
    codebooks: tuple[CodebookUse, ...] = ()
    heads: tuple[HeadInfo, ...] = ()
    tails: tuple[ClassTail, ...] = ()
    attention: tuple[Attention, ...] = ()
    splits: tuple[SplitSize, ...] = ()
    compositions: tuple[Composition, ...] = ()
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    config_yaml: str = ""
    notes: tuple[str, ...] = ()
    closed_loop: bool = True

    def __post_init__(self) -> None:
        for name in (*_PARTS, "scores", "notes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "environment", {str(k): str(v) for k, v in self.environment.items()})
        object.__setattr__(self, "stage_seconds", {str(k): float(v) for k, v in self.stage_seconds.items()})
        check_scores(self.scores)

    def encoders(self) -> tuple[str, ...]:
        """Return the encoders in order of first appearance, without the expert's `-`."""
        names = [s.encoder for s in self.scores] + [t.encoder for t in self.trajectories]
        return tuple(dict.fromkeys(n for n in names if n != "-"))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict that `from_dict` turns back into an equal bundle."""
        parts = {name: to_rows(getattr(self, name)) for name in _PARTS}
        return {
            "title": self.title,
            "suite": self.suite,
            "scores": [s.to_dict() for s in self.scores],
            **parts,
            "inputs_checked": self.inputs_checked,
            "stage_seconds": dict(self.stage_seconds),
            "environment": dict(self.environment),
            "config_yaml": self.config_yaml,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> ReportBundle:
        """Rebuild a bundle from `to_dict`.

        Raises:
            ConfigError: A field is missing or unknown, or two scores have the same key.
            ShapeError: A part does not fit its own checks.
        """
        parsed = dict(row)
        if "scores" in row:
            parsed["scores"] = tuple(Score.from_dict(s) for s in row["scores"])
        for name, part in _PARTS.items():
            if name in row:
                parsed[name] = tuple(build(part, item) for item in row[name])
        return build(cls, parsed)


_PARTS: dict[str, type[Any]] = {
    "trajectories": Trajectory,
    "confusions": Confusion,
    "videos": Video,
    "quarantined": Quarantined,
    "failures": EpisodeFailure,
    "constant_dims": ConstantDimension,
    "codebooks": CodebookUse,
    "heads": HeadInfo,
    "tails": ClassTail,
    "attention": Attention,
    "splits": SplitSize,
    "compositions": Composition,
}
