"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lary_policy.types import Quarantined


@dataclass(frozen=True)
class IntegrityReport:
    """Result of a check.

    Attributes:
        root: What was checked.
        checked: How many of each kind of thing were looked at.
        problems: Everything that is wrong; empty when all is well.
    """

    root: Path
    checked: dict[str, int]
    problems: tuple[Quarantined, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems
