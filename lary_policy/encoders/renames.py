"""Tensor names of one code base into those of another, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

# Regular expression and replacement, applied in order, each at most once a name.
Rules = Sequence[tuple[str, str]]


def rename(tensors: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Return the tensors under new names; a name that no rule matches stays, for a strict load to report.

    Args:
        tensors: State dict.
        rules: See `Rules`.
    """
    return {_renamed(name, rules): value for name, value in tensors.items()}


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name, count=1)
    return name
