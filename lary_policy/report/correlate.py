"""Does the probe score foretell closed-loop success? Pairs the two and says how little few points prove."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lary_policy.report.compare import REFERENCE_HEADS
from lary_policy.scores import Score, correlation, mmrv

PROBE_MODE: dict[str, str] = {"subgoal": "pair", "policy": "policy"}  # rollout mode -> the probe of its head
MIN_POINTS = 5  # below this a correlation over encoders is decided by a single one of them


@dataclass(frozen=True)
class Point:
    """One encoder: the test error of its head and the success of the same head in closed loop."""

    probe: Score
    success: Score


@dataclass(frozen=True)
class Panel:
    """All encoders of one task, mode and target.

    Attributes:
        embodiment: Embodiment name.
        task: Task name.
        mode: Rollout mode.
        target: Target of the head.
        protocol: Protocol of both scores.
        points: One point an encoder (and head and training seed).
        pearson_r: Correlation of MSE with success (-1 is perfect), or None when it is undefined.
        pearson_ci95: Its interval, or None below `MIN_POINTS` points: resampling them feigns certainty.
        mmrv: Mean maximum rank violation of ranking by MSE (0 is perfect), in success rate, or None.
        agreeing: Pairs of encoders that both scores put in the same order.
        pairs: Pairs of encoders that differ in both scores.
        note: What the number of points allows to conclude.
    """

    embodiment: str
    task: str
    mode: str
    target: str
    protocol: str
    points: tuple[Point, ...]
    pearson_r: float | None
    pearson_ci95: tuple[float, float] | None
    mmrv: float | None
    agreeing: int
    pairs: int
    note: str


@dataclass(frozen=True)
class Unmatched:
    """A closed-loop score without its probe score, and why."""

    score: Score
    reason: str


def correlate(scores: Sequence[Score]) -> tuple[tuple[Panel, ...], tuple[Unmatched, ...]]:
    """Pair each closed-loop success with the test MSE of the same head.

    `subgoal` rollouts belong to `pair` probes, `policy` rollouts to `policy` probes; encoder, fingerprint,
    head, embodiment, task, target, seed and protocol must agree.

    Returns:
        One panel for each task, mode and target, and the closed-loop scores that have no probe score.
    """
    probes: dict[tuple[str | int, ...], list[Score]] = {}
    for score in scores:
        if score.stage == "probe" and score.metric == "mse":
            probes.setdefault(_key(score, score.mode), []).append(score)
    groups: dict[tuple[str, str, str, str, str], list[Point]] = {}
    unmatched: list[Unmatched] = []
    for score in scores:
        if score.stage != "rollout" or score.metric != "success" or score.head in REFERENCE_HEADS:
            continue
        found = probes.get(_key(score, PROBE_MODE.get(score.mode, score.mode)), [])
        probe = found[0] if len(found) == 1 else next((s for s in found if s.split == "test"), None)
        if probe is None:
            why = "test MSE of the same encoder, head and target"
            unmatched.append(
                Unmatched(score, f"several splits, none named test, hold a {why}" if found else f"no {why}")
            )
        elif probe.fingerprint != score.fingerprint:
            reason = f"the probe used encoder {probe.fingerprint}, the rollout {score.fingerprint}"
            unmatched.append(Unmatched(score, reason))
        else:
            cell = (score.embodiment, score.task, score.mode, score.target, score.protocol)
            groups.setdefault(cell, []).append(Point(probe, score))
    return tuple(_panel(cell, points) for cell, points in groups.items()), tuple(unmatched)


def _key(score: Score, mode: str) -> tuple[str | int, ...]:
    return (
        score.encoder,
        score.head,
        score.embodiment,
        score.task,
        mode,
        score.target,
        score.seed,
        score.protocol,
    )


def _panel(cell: tuple[str, str, str, str, str], points: Sequence[Point]) -> Panel:
    error = np.array([p.probe.value for p in points])
    success = np.array([p.success.value for p in points])
    agreeing, pairs = _rank_agreement(error, success)
    r: float | None = None
    interval: tuple[float, float] | None = None
    if len(points) >= 3 and np.ptp(error) > 0 and np.ptp(success) > 0:
        found = correlation("pearson", error, success)
        r, interval = found.value, found.ci95
        interval = interval if len(points) >= MIN_POINTS else None
    violation = float(mmrv(-error, success)) if len(points) >= 2 else None
    note = _note(len(points), varied=bool(np.ptp(success) > 0))
    return Panel(*cell, tuple(points), r, interval, violation, agreeing, pairs, note)


def _rank_agreement(error: np.ndarray, success: np.ndarray) -> tuple[int, int]:
    """Count pairs ordered alike (lower error, higher success) among pairs that differ in both."""
    signs = [
        np.sign(error[j] - error[i]) * np.sign(success[i] - success[j])
        for i, j in itertools.combinations(range(len(error)), 2)
    ]
    return sum(int(s > 0) for s in signs), sum(int(s != 0) for s in signs)


def _note(points: int, *, varied: bool) -> str:
    if points < 2:
        return "One point: nothing can be correlated."
    if not varied:
        return f"All {points} encoders succeed equally often here: the probe score has nothing to foretell."
    if points < MIN_POINTS:
        return f"Only {points} points: too few for a conclusion; read r and rank agreement as a description."
    return f"{points} points: the interval of r says how far this can be trusted."
