"""From the action columns of a dataset to an `Embodiment`: explicit, by name, or inferred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lary_policy.data.action_names import UNNAMED, infer_embodiment, read_name
from lary_policy.embodiment import Embodiment, load_embodiment, register_embodiment
from lary_policy.errors import EmbodimentError

Origin = Literal["given", "by name", "by position", "inferred"]


@dataclass(frozen=True)
class ActionMapping:
    """Which number of a dataset's action is which of an embodiment.

    Attributes:
        embodiment: The layout.
        names: For each of its a numbers, the dataset's name of it.
        columns: For each of them, where it stands in the dataset's action.
        origin: How this was found.
    """

    embodiment: Embodiment
    names: tuple[str, ...]
    columns: tuple[int, ...]
    origin: Origin

    def pick(self, values: Tensor) -> Tensor:
        """Return the numbers `[..., a]` of the embodiment from the dataset's `[..., A]`."""
        return values[..., torch.tensor(self.columns)]

    def describe(self) -> str:
        """Return one line for each group of numbers, for people to check."""
        lines = [f"actions of {self.embodiment.name} ({self.origin}, {self.embodiment.control_hz:g} Hz)"]
        for group in self.embodiment.groups:
            pairs = zip(group.labels, group.indices, strict=True)
            cells = [n if (n := self.names[i]) == label else f"{label} = {n}" for label, i in pairs]
            form = f"{group.kind}, {group.convention}, {group.unit}"
            lines.append(f"  {group.arm} {group.name} ({form}): {', '.join(cells)}")
        return "\n".join(lines)


def map_actions(
    names: Sequence[str],
    control_hz: float,
    *,
    embodiment: str | None,
    action_names: Sequence[str] | None,
    title: str,
) -> ActionMapping:
    """Find the layout of a dataset's actions.

    Args:
        names: The dataset's names of the A numbers of its action.
        control_hz: Actions a second.
        embodiment: Name of an embodiment, or None to infer one from the names.
        action_names: The dataset's names in the order of the embodiment; None finds them by their meaning.
            Numbers without names are taken in order.
        title: What the name of an inferred layout starts with.

    Raises:
        EmbodimentError: A name is not in the dataset, or the numbers do not fit the embodiment.
        UnknownNameError: There is no such embodiment.
    """
    columns = None if action_names is None else _columns(names, action_names)
    if embodiment is None:
        chosen = tuple(range(len(names))) if columns is None else columns
        picked = tuple(names[i] for i in chosen)
        layout = register_embodiment(infer_embodiment(picked, control_hz, title=title))
        return ActionMapping(layout, picked, chosen, "inferred")
    layout, origin = load_embodiment(embodiment), "given"
    if columns is None:
        by_name = _by_meaning(names, layout)
        origin = "by position" if by_name is None else "by name"
        unnamed = list(names) == [UNNAMED.format(i) for i in range(len(names))]
        columns = by_name or (tuple(range(len(names))) if unnamed else ())
    if len(columns) != layout.action_dim:
        raise EmbodimentError(
            expected=f"the {layout.action_dim} numbers of {layout.name} ({', '.join(layout.labels)})",
            got=f"{len(columns) or 'not each of them'} among {', '.join(names)}",
            fix="Pass action_names=[...] in the embodiment's order, or leave embodiment out to infer one.",
        )
    return ActionMapping(layout, tuple(names[i] for i in columns), columns, origin)  # type: ignore[arg-type]


def _columns(names: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...]:
    absent = [name for name in wanted if name not in names]
    if absent or len(set(wanted)) < len(wanted):
        raise EmbodimentError(
            expected=f"action_names among {', '.join(names)}, each once",
            got=", ".join(absent or wanted),
            fix="Correct the spelling.",
        )
    return tuple(names.index(name) for name in wanted)


def _by_meaning(names: Sequence[str], layout: Embodiment) -> tuple[int, ...] | None:
    """Return where the names of each label's meaning stand, or None unless each is there exactly once."""
    meanings = [(m.arm, m.part) for m in map(read_name, names)]
    arms = {i: g.arm for g in layout.groups for i in g.indices}
    wanted = [(arms[i], read_name(label).part) for i, label in enumerate(layout.labels)]
    if any(meanings.count(meaning) != 1 for meaning in wanted):
        return None
    return tuple(meanings.index(meaning) for meaning in wanted)
