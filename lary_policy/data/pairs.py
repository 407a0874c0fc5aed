"""Pairs of frames k control steps apart with the chunk of actions between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lary_policy.data.layout import is_count
from lary_policy.frames import Frame
from lary_policy.types import Quarantined


@dataclass(frozen=True, slots=True)
class PairRow:
    """One usable row of a metadata CSV; all paths are absolute and inside the dataset root.

    Attributes:
        line: Line in the CSV, the header being line 1.
        episode: Name of the episode (its number in simulated data).
        src_step: Control step of the source frame, or None if the file name has none.
        tgt_step: Control step of the target frame, or None.
        src_frames: Source image of each camera: a file, or a frame inside one.
        tgt_frames: Target image of each camera.
        action: File of the chunk.
        label: Atomic primitive, or "" for none.
        noise_steps: Steps of the chunk at which a disturbance was added to the executed pose.
        robot_type: Kind of robot, or "" where the file has none.
        csv: Name of the CSV, where a table was read from several; otherwise "".
    """

    line: int
    episode: str
    src_step: int | None
    tgt_step: int | None
    src_frames: tuple[Frame, ...]
    tgt_frames: tuple[Frame, ...]
    action: Path
    label: str
    noise_steps: int
    robot_type: str = ""
    csv: str = ""


@dataclass(frozen=True, eq=False)
class PairTable:
    """Rows of one split with their actions in memory.

    Attributes:
        rows: The N usable rows.
        cameras: Names of the c cameras, in the order of `PairRow.src_frames`.
        quarantined: Rows set aside when the table was read, with reasons.
        source: The CSV it was read from.
        has_states: Whether anchors are measured poses; otherwise they are the first action of each chunk.
        has_labels: Whether the CSV has a `label` column.
    """

    rows: tuple[PairRow, ...]
    cameras: tuple[str, ...]
    quarantined: tuple[Quarantined, ...]
    source: Path
    has_states: bool
    has_labels: bool
    action_values: Tensor
    executed_values: Tensor
    anchor_values: Tensor

    @classmethod
    def of_classes(
        cls,
        rows: Sequence[PairRow],
        cameras: tuple[str, ...],
        quarantined: Sequence[Quarantined],
        source: Path,
    ) -> PairTable:
        """Return a table whose rows have classes and no actions, `[N, 0, 0]`."""
        nothing = torch.zeros(len(rows), 0, 0)
        aside = tuple(quarantined)
        return cls(tuple(rows), cameras, aside, source, False, True, nothing, nothing, nothing.flatten(1))

    def __len__(self) -> int:
        return len(self.rows)

    def frame_paths(self) -> tuple[Frame, ...]:
        """Return every frame once, in order of first use."""
        return tuple(dict.fromkeys(p for r in self.rows for p in (*r.src_frames, *r.tgt_frames)))

    def frames_before(self) -> tuple[tuple[Frame, ...], ...]:
        """Return the frames of each camera one chunk before each row's source frames.

        They are the source frames of the row whose target frames these are. Where the table has none, as at
        the start of an episode, they are the source frames themselves: nothing has changed yet.
        """
        leads_to = {row.tgt_frames: row.src_frames for row in reversed(self.rows)}
        return tuple(leads_to.get(row.src_frames, row.src_frames) for row in self.rows)

    def actions(self) -> Tensor:
        """Return the recorded (clean) absolute actions, float32 `[N, k, a]`."""
        return self.action_values

    def executed(self) -> Tensor:
        """Return the poses that were really executed, float32 `[N, k, a]`.

        They differ from `actions()` where a disturbance was injected (`noise_steps` > 0). An inverse model of
        (source, target) wants these, because only they explain the target frame.
        """
        return self.executed_values

    def anchors(self) -> Tensor:
        """Return the pose at each source frame, float32 `[N, a]` (see `has_states`)."""
        return self.anchor_values

    def noise_steps(self) -> Tensor:
        """Return the disturbed steps of each chunk, int64 `[N]`; behaviour cloning wants the rows with 0."""
        return torch.tensor([r.noise_steps for r in self.rows], dtype=torch.int64)

    def episodes(self) -> Tensor:
        """Return the episode of each row, int64 `[N]`: its number, or an index if names are not numbers."""
        names = [r.episode for r in self.rows]
        if all(is_count(name) for name in names):
            return torch.tensor([int(name) for name in names], dtype=torch.int64)
        order = {name: i for i, name in enumerate(sorted(set(names)))}
        return torch.tensor([order[name] for name in names], dtype=torch.int64)

    def labels(self) -> tuple[str, ...] | None:
        """Return the atomic primitive of each row ("" for none), or None if the CSV has no such column."""
        return tuple(r.label for r in self.rows) if self.has_labels else None

    def robot_types(self) -> tuple[str, ...]:
        """Return the kind of robot of each row ("" where the file has none)."""
        return tuple(r.robot_type for r in self.rows)

    def item(self, row: PairRow) -> str:
        """Return where a row stands, for messages."""
        return f"{row.csv or self.source.name}:{row.line}"

    def select(self, indices: Sequence[int] | Tensor) -> PairTable:
        """Return the table of the rows at `indices`, in that order."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return replace(
            self,
            rows=tuple(self.rows[i] for i in index.tolist()),
            action_values=self.action_values[index],
            executed_values=self.executed_values[index],
            anchor_values=self.anchor_values[index],
        )
