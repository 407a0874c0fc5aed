"""Everything a report shows, checked on construction: a wrong number stops here, not on the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

from lary_policy.errors import ConfigError, ShapeError
from lary_policy.report.compare import Measured
from lary_policy.report.driven import Driven, driven
from lary_policy.report.latent_actions import LamPoint
from lary_policy.report.league import League, league
from lary_policy.report.origin import Origin
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
)
from lary_policy.scores import Score
from lary_policy.types import Quarantined

RATE_METRICS = frozenset({"success", "success_at_end", "progress", "top1", "top1_macro", "f1_macro"})
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
    low, high = score.ends
    where = " ".join(str(part) for part in score_key(score))
    numbers = (score.value, low, high, score.seconds)
    if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
        raise ShapeError(
            expected=f"finite Python numbers as value, interval and seconds of score '{where}'",
            got=f"value {score.value}, interval {score.ci95}, seconds {score.seconds}",
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
        notes: Sentences about inputs and cells, shown at the end of the page.
        warnings: Sentences that a reader must see before any number.
        measured: Scores with the numbers of their samples and episodes, for paired comparisons.
        latents: Tokens and width of each view's latents, as far as they are known.
        origin: Where the numbers come from, if points of a study are to be made of them.
        families: Those that encoders declare, by view, see `family_of`.
        lams: What trainings of latent action models said of held-out pairs.
        commits: Commit that each closed loop was computed on, by `loop_key`.
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
    warnings: tuple[str, ...] = ()
    measured: tuple[Measured, ...] = ()
    latents: Mapping[str, Sequence[int]] = field(default_factory=dict)
    origin: Origin | None = None
    families: Mapping[str, str] = field(default_factory=dict)
    lams: tuple[LamPoint, ...] = ()
    commits: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    closed_loop: bool = True

    def __post_init__(self) -> None:
        for one in fields(self):
            if isinstance(one.default, tuple) or one.name == "scores":
                object.__setattr__(self, one.name, tuple(getattr(self, one.name)))
        object.__setattr__(self, "environment", {str(k): str(v) for k, v in self.environment.items()})
        object.__setattr__(self, "stage_seconds", {str(k): float(v) for k, v in self.stage_seconds.items()})
        check_scores(self.scores)

    @cached_property
    def league(self) -> League:
        """All proxies side by side."""
        return league(*self.driven)

    @cached_property
    def driven(self) -> tuple[tuple[Driven, ...], tuple[str, ...]]:
        """Closed loops with their offline scores, and what does not belong together."""
        points, notes = driven(self.measured, self.scores, self.latents)
        return tuple(replace(p, declared=self.families.get(p.view, "")) for p in points), notes

    def encoders(self) -> tuple[str, ...]:
        """Return the encoders in order of first appearance, without the expert's `-`."""
        names = [s.encoder for s in self.scores] + [t.encoder for t in self.trajectories]
        return tuple(dict.fromkeys(n for n in names if n != "-"))
