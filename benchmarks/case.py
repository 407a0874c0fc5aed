"""The records of a benchmark: a declared case and a measured figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """A benchmark by name.

    Attributes:
        name: Name on the command line.
        module: Module beside this file whose `run(**settings)` yields figures.
        settings: Settings and their defaults.
    """

    name: str
    module: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One measured number, with what it is compared to where a baseline ran in the same process.

    Attributes:
        metric: What was measured.
        value: The median of the repeats.
        unit: Its unit.
        baseline: The other side's value, or None.
        low: Smallest repeat, or None.
        high: Largest repeat, or None.
    """

    metric: str
    value: float
    unit: str
    baseline: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def ratio(self) -> float | None:
        """Return value / baseline."""
        return self.value / self.baseline if self.baseline else None

    def to_dict(self, case: str) -> dict[str, Any]:
        """Return the JSON row; baseline, ratio and range only where they exist."""
        optional = {"baseline": self.baseline, "ratio": self.ratio, "min": self.low, "max": self.high}
        required = {"case": case, "metric": self.metric, "value": self.value, "unit": self.unit}
        return {**required, **{k: v for k, v in optional.items() if v is not None}}

    def line(self, case: str) -> str:
        """Return the line for people: `case.metric value unit (ratio)`."""
        against = f"  ({self.ratio:.3f} x baseline {self.baseline:.4g})" if self.baseline else ""
        return f"{case}.{self.metric} {self.value:.4g} {self.unit}{against}"
