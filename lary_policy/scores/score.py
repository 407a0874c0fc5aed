"""The measured number, the only thing a report accepts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from lary_policy.errors import DatasetError
from lary_policy.scores.intervals import CLAIM_CLUSTERS, Estimate

_PLAIN: dict[Any, type] = {"str": str, "int": int}  # annotations of fields that JSON must hold as they are


@dataclass(frozen=True)
class Score:
    """One measured number.

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
        ci95: Its 95 % confidence interval, or None if there is none to be had.
        n: Samples or episodes behind it.
        split: Data split or seed range it was measured on.
        seed: Seed of training.
        protocol: `native` or `lary`.
        fingerprint: Fingerprint of the encoder (weights, preprocessing, dtype).
        seconds: Seconds spent on producing it.
        clusters: Independent recordings or episodes behind it; None if that is not known.
        no_interval: Why there is no interval, in words; empty if there is one.
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
    ci95: tuple[float, float] | None
    n: int
    split: str
    seed: int
    protocol: str
    fingerprint: str
    seconds: float
    clusters: int | None = None
    no_interval: str = ""

    @classmethod
    def of(cls, estimate: Estimate, **facts: Any) -> Score:
        """Make a score of an estimate; `facts` are all other fields."""
        return cls(
            value=estimate.value,
            ci95=estimate.ci95,
            clusters=estimate.clusters,
            no_interval=estimate.no_interval,
            **facts,
        )

    @property
    def ends(self) -> tuple[float, float]:
        """Ends of the interval; the number itself twice where there is none."""
        return self.ci95 or (self.value, self.value)

    @property
    def supports_claims(self) -> bool:
        """Whether its interval may tell it from another score: there is one, of enough recordings."""
        return self.ci95 is not None and (self.clusters is None or self.clusters >= CLAIM_CLUSTERS)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict with the interval as a list."""
        return {**asdict(self), "ci95": None if self.ci95 is None else list(self.ci95)}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Score:
        """Rebuild a score from `to_dict`.

        Raises:
            DatasetError: A field is missing, unknown or of another type.
        """
        try:
            given = row["ci95"]
            low, high = (None, None) if given is None else (float(end) for end in given)
            ci95 = None if low is None or high is None else (low, high)
            score = cls(**{**row, "value": float(row["value"]), "ci95": ci95})
            for field in fields(cls):
                if field.type in _PLAIN and not isinstance(getattr(score, field.name), _PLAIN[field.type]):
                    raise TypeError(f"{field.name} is {getattr(score, field.name)!r}")
        except Exception as error:
            raise DatasetError(
                expected=f"a score with the fields {', '.join(cls.columns())}",
                got=f"{type(error).__name__}: {error}",
                fix="Measure it again: the file is damaged or of another version.",
            ) from error
        return score

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Return the field names in order."""
        return tuple(f.name for f in fields(cls))
