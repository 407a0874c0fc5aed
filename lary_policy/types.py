"""Small immutable records shared by every part of the package. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from lary_policy.errors import ShapeError

LatentKind = Literal["frame", "pair", "clip"]


@dataclass(frozen=True)
class LatentSpec:
    """What an encoder puts out for one frame, pair or clip.

    Attributes:
        kind: `frame` encoders give one latent a frame; `pair` and `clip` encoders one for several frames.
        tokens: Tokens n of one latent.
        width: Width d of one token.
        grid: Token layout (t, h, w) with t * h * w == tokens, or None when tokens have no position.
        quantised: Whether tokens are codebook vectors.
    """

    kind: LatentKind
    tokens: int
    width: int
    grid: tuple[int, int, int] | None = None
    quantised: bool = False

    def __post_init__(self) -> None:
        if self.grid is not None and math.prod(self.grid) != self.tokens:
            raise ShapeError(
                expected=f"a grid of {self.tokens} tokens",
                got=f"grid {self.grid}",
                fix="Correct the LatentSpec.",
            )


@dataclass(frozen=True)
class Score:
    """One measured number, the only thing a report accepts.

    Attributes:
        stage: `probe` or `rollout`.
        encoder: Registry name of the encoder, or `-` for the scripted expert.
        head: Head description, e.g. `mlp512-project32`, `random`, `expert`.
        embodiment: Embodiment name.
        task: Task or dataset name.
        mode: `pair` (inverse model), `subgoal` or `policy` (closed loop or its head), `atomic` (classes).
        target: `absolute`, `relative` or `class`.
        metric: `mse`, `top1`, `success`, ... (dimension or group appended as `mse/position`).
        value: The number.
        ci95: Its 95 % confidence interval.
        n: Samples or episodes behind it.
        split: Data split or seed range it was measured on.
        seed: Seed of training.
        protocol: `native` or `lary`.
        fingerprint: Fingerprint of the encoder (weights, preprocessing, dtype).
        seconds: Seconds spent on producing it.
    """

    stage: str
    encoder: str
    head: str
    embodiment: str
    task: str
    mode: str
    target: str
    metric: str
    value: float
    ci95: tuple[float, float]
    n: int
    split: str
    seed: int
    protocol: str
    fingerprint: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict with the interval as a list."""
        return {**asdict(self), "ci95": list(self.ci95)}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Score:
        """Rebuild a score from `to_dict`; unknown keys raise TypeError."""
        low, high = row["ci95"]
        return cls(**{**row, "ci95": (float(low), float(high))})

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Return the field names in order."""
        return tuple(f.name for f in fields(cls))


@dataclass(frozen=True)
class EpisodeResult:
    """Outcome of one closed-loop episode.

    Attributes:
        seed: Seed of the initial state.
        success: The success condition held at some step.
        success_at_end: It held at the last step.
        steps: Control steps executed.
        first_success_step: Control step of the first success, or None.
        failure: None, or why there was no (whole) episode, see `lary_envs.failures.FAILURES`.
        smoothness: Mean squared change of the commanded displacement between control steps (m^2), 0 for an
            even motion.
    """

    seed: int
    success: bool
    success_at_end: bool
    steps: int
    first_success_step: int | None
    failure: str | None
    smoothness: float


@dataclass(frozen=True)
class Quarantined:
    """One input that was set aside, never silently dropped.

    Attributes:
        item: Path or row that was set aside.
        reason: Why, in words a user can act on.
        where: Stage or file it was found in.
    """

    item: str
    reason: str
    where: str
