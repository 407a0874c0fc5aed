"""What the numbers of an action mean, compared between a head and an environment before the first step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lary_policy.actions.embodiment import Embodiment
from lary_policy.actions.statistics import ActionStats
from lary_policy.errors import EmbodimentError


@dataclass(frozen=True)
class ActionContract:
    """Everything two sides must agree on so that one may execute what the other predicts."""

    embodiment: str  # name of the action layout
    labels: tuple[str, ...]  # meaning of each of the a numbers, in order
    conventions: tuple[str, ...]  # for each number its convention and unit, e.g. `euler_xyz rad`.
    control_hz: float  # actions a second
    target: str  # `absolute` or `relative` (to the measured state at the start of a chunk)

    @classmethod
    def of(cls, embodiment: Embodiment, target: str) -> ActionContract:
        """Return the contract of actions in an embodiment's layout."""
        meaning = {i: f"{g.convention} {g.unit}" for g in embodiment.groups for i in g.indices}
        conventions = tuple(meaning[i] for i in range(embodiment.action_dim))
        return cls(embodiment.name, embodiment.labels, conventions, embodiment.control_hz, target)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ActionContract:
        """Rebuild a contract from `dataclasses.asdict`."""
        lists = {name: tuple(raw[name]) for name in ("labels", "conventions")}
        return cls(**{**raw, **lists})

    def require(self, other: ActionContract) -> None:
        """Refuse a partner, the environment that would execute the actions, if they mean something else.

        Raises:
            EmbodimentError: They differ; the message names the fields and prints both sides.
        """
        own, theirs = asdict(self), asdict(other)
        different = [name for name in own if own[name] != theirs[name]]
        if different:
            raise EmbodimentError(
                expected="; ".join(f"{name} {own[name]}" for name in different) + " (of the head)",
                got="; ".join(f"{name} {theirs[name]}" for name in different) + " (of the environment)",
                fix="Use the head with the embodiment, rate and target it was trained for.",
            )


def require_stats(stats: ActionStats | None, embodiment: Embodiment, what: str) -> ActionStats:
    """Return usable statistics.

    Raises:
        EmbodimentError: They are missing, of another length, not finite, or scale by zero.
    """
    size = embodiment.action_dim
    if stats is None or len(stats.mean) != size or len(stats.std) != size:
        got = "none" if stats is None else f"{len(stats.mean)} means and {len(stats.std)} deviations"
        raise EmbodimentError(
            expected=f"{what} of {size} numbers ({', '.join(embodiment.labels)})",
            got=got,
            fix="Train the head again; statistics are saved with it.",
        )
    if not all(map(math.isfinite, (*stats.mean, *stats.std))) or min(stats.std) <= 0:
        raise EmbodimentError(
            expected=f"finite {what} with positive deviations",
            got=f"mean {stats.mean}, std {stats.std}",
            fix="Check the train split with `lary data verify` and train the head again.",
        )
    return stats
