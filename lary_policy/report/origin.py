"""Where the points of a study come from, and so which of them can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Origin:
    """Where points come from.

    Attributes:
        versions: Of the stages of cells: what decides whether numbers mean the same.
        device: `cpu` or `cuda`.
        setup: Settings that all points of a study share: demonstrations, frames, chunk, looks.
        package: Version of this package.
        commit: Of its checkout.
    """

    versions: Mapping[str, int]
    device: str
    setup: Mapping[str, Any]
    package: str
    commit: str

    @property
    def kind(self) -> str:
        """What points must share to be compared, as text."""
        return json.dumps([self.versions, self.device, self.setup], sort_keys=True)

    def apart(self, other: Origin) -> str:
        """Return what keeps another origin's points from being compared with ours, in words."""
        versions, setup = (
            {**a, **b} for a, b in ((self.versions, other.versions), (self.setup, other.setup))
        )
        pairs: dict[str, tuple[Any, Any]] = {
            f"{name} of cells": (self.versions.get(name), other.versions.get(name)) for name in versions
        }
        pairs |= {name: (self.setup.get(name), other.setup.get(name)) for name in setup}
        pairs["device"] = (self.device, other.device)
        return ", ".join(
            f"{name} {there}, not {here}" for name, (here, there) in pairs.items() if here != there
        )

    def words(self) -> str:
        """Return it for sentences."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return f"cell versions {versions} on {self.device} (commit {self.commit})"
