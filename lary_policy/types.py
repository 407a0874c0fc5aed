"""Small immutable records shared by every part of the package. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

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


# Why a world's episode ends before its time: names by code, the same in every loop. The first two are what
# a controller finds before an action is executed.
FAILURES: tuple[str | None, ...] = (
    None, "non_finite_action", "out_of_range_action", "diverged", "target_out_of_reach",
)  # fmt: skip
NON_FINITE, OUT_OF_RANGE, DIVERGED, OUT_OF_REACH = 1, 2, 3, 4


@dataclass(frozen=True)
class EpisodeResult:
    """Outcome of one closed-loop episode.

    Attributes:
        seed: Seed of the initial state.
        success: The success condition held at some step.
        success_at_end: It held at the last step.
        steps: Control steps executed.
        first_success_step: Control step of the first success, or None.
        failure: None, or why there was no (whole) episode, see `FAILURES`.
        smoothness: Mean squared change of the commanded displacement between control steps (m^2), 0 for an
            even motion.
        progress: Share of the task that was done, from 0 to 1: milestones passed, 1 with success.
    """

    seed: int
    success: bool
    success_at_end: bool
    steps: int
    first_success_step: int | None
    failure: str | None
    smoothness: float
    progress: float


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
