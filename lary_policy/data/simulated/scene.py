"""The named state of the scene beside demonstrations, and which of their steps decide over success."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lary_policy.actions import ActionGroup, Embodiment
from lary_policy.data import layout
from lary_policy.data.pairs import PairRow
from lary_policy.data.simulated.writer import read_episodes
from lary_policy.errors import DatasetError
from lary_policy.paths import MAX_JSON_BYTES, foreign_file, read_json, read_regular

APPROACH_S = 0.5  # before success: where a reach ends or misses
_AGAIN = "Collect the demonstrations anew: those of earlier versions have no named state."
# How a quantity's name ends -> kind, convention and unit of its numbers; others are numbers of their own.
_KINDS = {
    "pos": ("position", "world", "m"),
    "rot": ("rotation", "rot6d", "rad"),
    "gripper": ("gripper", "opening", "fraction"),
}


@dataclass(frozen=True, eq=False)
class Scene:
    """What is known of the scene at the source frames of N rows with chunks of k steps.

    Attributes:
        layout: Groups of the state's numbers, one a quantity of the task, with units.
        state: Their values, float32 `[N q]`.
        critical: Steps that decide over success, bool `[N k]`: the expert's phases near contact, and the last
            `APPROACH_S` before the first success.
    """

    layout: Embodiment
    state: Tensor
    critical: Tensor


def read_scene(root: Path, rows: Sequence[PairRow], stride: int, control_hz: float) -> Scene:
    """Read the scene at the source frame of each row.

    Args:
        root: Folder of the dataset.
        rows: Rows of a split.
        stride: Control steps k of a chunk.
        control_hz: Control steps a second.

    Raises:
        DatasetError: A file is missing or damaged, or the demonstrations were recorded without it.
    """
    before = round(APPROACH_S * control_hz)
    ends = {str(r.episode): r.success_step for r in read_episodes(root)}
    episodes = {name: _read_episode(root, name) for name in dict.fromkeys(row.episode for row in rows)}
    state, critical = [], []
    form = next(iter(episodes.values()))[0]
    for row in rows:
        own, values, free = episodes[row.episode]
        step, end = row.src_step or 0, ends.get(row.episode)
        if own != form or step % stride or step // stride >= len(values) or step + stride > len(free):
            raise DatasetError(
                expected=f"the state of {', '.join(f'{n} [{w}]' for n, w in form)} at step {step} of episode "
                f"{row.episode}",
                got=f"{', '.join(f'{n} [{w}]' for n, w in own)} at {len(values)} boundaries",
                fix=_AGAIN,
            )
        state.append(values[step // stride])
        steps = range(step, step + stride)
        critical.append([not free[t] or (end is not None and end - before <= t < end) for t in steps])
    return Scene(_layout(form), torch.stack(state), torch.tensor(critical))


def scene_digest(root: Path, episodes: Sequence[str]) -> str:
    """Return a digest of the scene files of some episodes.

    Raises:
        DatasetError: One is missing.
    """
    found = hashlib.sha256()
    for name in episodes:
        path = _file(root, name)
        with foreign_file("the named state of an episode", path, _AGAIN):
            found.update(read_regular(path, MAX_JSON_BYTES))
    return found.hexdigest()[:16]


def scene_states(root: Path, episode: str) -> list[str]:
    """Return the named state at each boundary of an episode, as words to compare; none was kept of some data.

    Raises:
        DatasetError: The file is damaged.
    """
    if not layout.is_count(episode) or not _file(root, episode).is_file():
        return []
    _, values, _ = _read_episode(root, episode)
    return [str(one) for one in values.tolist()]


def _file(root: Path, episode: str) -> Path:
    if not layout.is_count(episode):
        raise DatasetError(expected="an episode's number", got=f"'{episode}'", fix=_AGAIN)
    return root / layout.scene_file(int(episode))


def _read_episode(root: Path, name: str) -> tuple[tuple[tuple[str, int], ...], Tensor, list[bool]]:
    """Return (name, width) of each quantity, values `[boundaries q]`, and whether each step is free."""
    path = _file(root, name)
    with foreign_file("the named state of an episode", path, _AGAIN):
        raw = read_json(path, fix=_AGAIN)
        parts = {name: torch.tensor(values, dtype=torch.float32) for name, values in raw["state"].items()}
        values = torch.cat(list(parts.values()), 1)
        if not torch.isfinite(values).all():
            raise ValueError("a number that is not finite")
        return tuple((n, v.shape[1]) for n, v in parts.items()), values, [bool(one) for one in raw["free"]]


def _layout(form: tuple[tuple[str, int], ...]) -> Embodiment:
    """Return the layout of a state's numbers as scores name them."""
    groups, start = [], 0
    for name, width in form:
        kind, convention, unit = _KINDS.get(name.rpartition("_")[2], ("joint", "-", "unit"))
        labels = tuple(f"{name}_{i}" for i in range(width))
        indices = tuple(range(start, start + width))
        groups.append(ActionGroup(name, kind, "single", indices, labels, convention, unit))  # type: ignore[arg-type]
        start += width
    return Embodiment("state", tuple(groups), control_hz=20.0)
