"""The measured number, the only thing a report accepts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


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
