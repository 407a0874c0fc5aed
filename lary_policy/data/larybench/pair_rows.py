"""The rows of a pair CSV: the usual ones in blocks, all at once; whatever is unusual about a row, alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lary_policy.data import layout
from lary_policy.data.arrays import PlainChunks, read_chunk
from lary_policy.data.layout import PathResolver
from lary_policy.data.pairs import PairRow
from lary_policy.errors import DatasetError, LaryPolicyError
from lary_policy.types import Quarantined

BLOCK_ROWS = 4096  # of chunks of 45 x 16 numbers that is 12 MB
_STEP = re.compile(r"frame_(\d{1,18})(\.[^./]*)?$")
Values = NDArray[np.float32]
Cells = Mapping[str, str]


@dataclass(frozen=True)
class PairFile:
    """One metadata CSV, read but not resolved.

    Attributes:
        path: The CSV.
        columns: Its columns.
        rows: Line and cells of each row that is to be used.
        resolver: Finds its files.
        namespace: Put in front of episode names, where files of several folders use the same ones.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, Cells], ...]
    resolver: PathResolver
    namespace: str = ""

    def episode(self, cells: Cells) -> str:
        """Return the name of a row's episode."""
        name = cells.get("episode") or layout.episode_key(cells.get("src_img") or "")
        return f"{self.namespace}/{name}" if self.namespace else name


@dataclass(frozen=True)
class PairFormat:
    """What every row of one table has in common.

    Attributes:
        cameras: Columns of source and target image of each camera.
        stride: Steps k of a chunk.
        action_dim: Numbers a of an action.
        has_states: Whether measured poses are read.
    """

    cameras: Mapping[str, tuple[str, str]]
    stride: int
    action_dim: int
    has_states: bool


@dataclass(frozen=True)
class PairBlock:
    """Usable rows with their numbers, in the order of the CSV.

    Attributes:
        rows: N of them.
        actions: Recorded chunks `[N k a]`.
        executed: Executed chunks `[N k a]`; the same array where the CSV names none.
        anchors: Poses at the source frames `[N a]`.
    """

    rows: tuple[PairRow, ...]
    actions: Values
    executed: Values
    anchors: Values


class PairReader:
    """Reads the rows of one CSV.

    Rows that nothing is unusual about are read by a short path; every other row goes through `read_row`,
    which decides whether it is usable and says why not. Both give the same numbers.

    Args:
        file: The CSV.
        form: What its rows have in common.
    """

    def __init__(self, file: PairFile, form: PairFormat) -> None:
        self._file, self._form = file, form
        self._width, self._name = len(file.columns), file.path.name
        self._columns = tuple(form.cameras.values())
        self._chunks = PlainChunks(form.stride, form.action_dim)
        self._poses = PlainChunks(1, form.action_dim)
        self._frames: dict[str, tuple[Path, int | None]] = {}
        self._further = {c for c in ("label", "noise_steps", "robot_type") if c in file.columns}
        self._executed = "executed" in file.columns

    def read(self, rows: Sequence[tuple[int, Cells]]) -> tuple[PairBlock, list[Quarantined]]:
        """Read some rows, and say which of them cannot be used and why."""
        plain = [self._plain(line, cells) for line, cells in rows]
        usual = [one for one in plain if one is not None]
        chunks = self._chunks.values([data[0] for _, data in usual])
        executed = self._chunks.values([data[1] for _, data in usual]) if self._executed else chunks
        numbers = [chunks, executed]
        if self._form.has_states:
            numbers.append(self._poses.values([data[2] for _, data in usual]))
        fine = np.all([np.isfinite(v).all((1, 2)) for v in numbers], axis=0) if usual else np.zeros(0, bool)
        return self._join(rows, plain, numbers, fine)

    def _plain(self, line: int, cells: Cells) -> tuple[PairRow, tuple[bytes, bytes, bytes]] | None:
        """Return a row with the bytes of its arrays, or None if anything about it is unusual."""
        if len(cells) != self._width or None in cells.values():
            return None
        form, locate, further = self._form, self._file.resolver.locate, self._further
        try:
            src = [self._frame(cells[one]) for one, _ in self._columns]
            tgt = [self._frame(cells[two]) for _, two in self._columns]
            action = locate(cells["action"], layout.ACTIONS)
            executed = cells["executed"] if self._executed else ""
            run = locate(executed, layout.EXECUTED) if executed else ""
            state = locate(cells["src_state"], layout.STATES) if form.has_states else ""
        except LaryPolicyError:
            return None
        first, last = src[0][1], tgt[0][1]
        noise = cells["noise_steps"] if "noise_steps" in further else ""
        apart = form.stride if first is None or last is None else last - first
        chunk = self._chunks.read(action)
        done = self._chunks.read(run) if run else chunk
        pose = self._poses.read(state) if state else b""
        if (
            apart != form.stride
            or chunk is None
            or done is None
            or pose is None
            or not layout.is_count(noise or "0")
        ):
            return None
        row = PairRow(
            line,
            self._file.episode(cells),
            first,
            last,
            tuple([frame[0] for frame in src]),
            tuple([frame[0] for frame in tgt]),
            Path(action),
            cells["label"] if "label" in further else "",
            int(noise or 0),
            cells["robot_type"].strip() if "robot_type" in further else "",
            self._name,
        )
        return row, (chunk, done, pose)

    def _frame(self, cell: str) -> tuple[Path, int | None]:
        """Return the path of a frame and its control step; chained pairs share them."""
        known = self._frames.get(cell)
        if known is None:
            path = self._file.resolver.locate(cell, layout.IMAGES)
            known = self._frames[cell] = Path(path), step_in(path)
        return known

    def _join(
        self,
        rows: Sequence[tuple[int, Cells]],
        plain: Sequence[tuple[PairRow, tuple[bytes, bytes, bytes]] | None],
        numbers: Sequence[Values],
        fine: NDArray[np.bool_],
    ) -> tuple[PairBlock, list[Quarantined]]:
        """Put usual rows and those that were read alone back into the order of the CSV."""
        kept: list[PairRow] = []
        picked: list[int] = []  # place of each kept row among the usual ones, or -1
        alone: list[tuple[Values, Values, Values]] = []
        quarantined: list[Quarantined] = []
        place = -1
        for (line, cells), one in zip(rows, plain, strict=True):
            place += one is not None
            if one is not None and fine[place]:
                kept.append(one[0])
                picked.append(place)
                continue
            try:
                row, values = read_row(line, cells, self._form, self._file)
            except LaryPolicyError as error:
                quarantined.append(Quarantined(f"{self._name}:{line}", str(error), "load_pairs"))
                continue
            kept.append(row)
            picked.append(-1)
            alone.append(values)
        return self._block(kept, np.array(picked, dtype=np.int64), numbers, alone), quarantined

    def _block(
        self,
        kept: Sequence[PairRow],
        picked: NDArray[np.int64],
        numbers: Sequence[Values],
        alone: Sequence[tuple[Values, Values, Values]],
    ) -> PairBlock:
        usual = picked >= 0
        shape = (len(kept), self._form.stride, self._form.action_dim)
        actions = np.empty(shape, np.float32)
        actions[usual] = numbers[0][picked[usual]]
        actions[~usual] = np.array([one[0] for one in alone]).reshape(-1, *shape[1:])
        executed = actions
        if self._executed:
            executed = np.empty_like(actions)
            executed[usual] = numbers[1][picked[usual]]
            executed[~usual] = np.array([one[1] for one in alone]).reshape(-1, *shape[1:])
        anchors = actions[:, 0].copy()
        if self._form.has_states:
            anchors[usual] = numbers[2][picked[usual], 0]
            anchors[~usual] = np.array([one[2] for one in alone]).reshape(-1, shape[2])
        return PairBlock(tuple(kept), actions, executed, anchors)


def read_row(
    line: int, cells: Cells, form: PairFormat, file: PairFile
) -> tuple[PairRow, tuple[Values, Values, Values]]:
    """Read one row with its chunk as recorded, its chunk as executed and its anchor.

    Raises:
        DatasetError: A cell, a file or the distance of its frames is wrong.
        UnsafePathError: A path leaves the root.
    """
    check_fields(cells)
    resolver = file.resolver
    src, tgt = (
        tuple(resolver(cells[pair[i]], layout.IMAGES) for pair in form.cameras.values()) for i in (0, 1)
    )
    src_step, tgt_step = step_of(src[0]), step_of(tgt[0])
    if src_step is not None and tgt_step is not None and tgt_step - src_step != form.stride:
        raise DatasetError(
            expected=f"frames {form.stride} steps apart",
            got=f"{src[0].name} and {tgt[0].name}",
            fix="Choose the stride this dataset was made with.",
        )
    action_path = resolver(cells["action"], layout.ACTIONS)
    actions = read_chunk(action_path, form.stride, form.action_dim)
    executed = actions
    if cells.get("executed"):
        executed = read_chunk(resolver(cells["executed"], layout.EXECUTED), form.stride, form.action_dim)
    anchor = actions[0]
    if form.has_states:
        anchor = read_chunk(resolver(cells["src_state"], layout.STATES), 1, form.action_dim)[0]
    row = PairRow(
        line=line,
        episode=file.episode(cells),
        src_step=src_step,
        tgt_step=tgt_step,
        src_frames=src,
        tgt_frames=tgt,
        action=action_path,
        label=cells.get("label", ""),
        noise_steps=_count(cells.get("noise_steps", "")),
        robot_type=cells.get("robot_type", "").strip(),
        csv=file.path.name,
    )
    return row, (actions, executed, anchor)


def check_fields(cells: Cells) -> None:
    """Raise DatasetError if a row of a CSV has more or fewer fields than the header."""
    if None in cells or any(value is None for value in cells.values()):
        count = sum(key is not None for key in cells)
        raise DatasetError(
            expected=f"{count} fields", got="another number of them", fix="Correct the CSV row."
        )


def step_of(frame: Path) -> int | None:
    """Return the control step in the name of an image, or None if it has none."""
    return step_in(str(frame))


def step_in(path: str) -> int | None:
    """Return the control step in the path of an image, or None if it has none."""
    match = _STEP.search(path)
    return int(match.group(1)) if match else None


def class_of(cells: Cells) -> str:
    """Return the class in a row.

    Raises:
        DatasetError: It has none.
    """
    label = cells["action"].strip()
    if not label:
        raise DatasetError(expected="a class in column action", got="an empty cell", fix="Complete the row.")
    return label


def _count(text: str) -> int:
    if text and not layout.is_count(text):
        raise DatasetError(expected="a count in noise_steps", got=f"'{text}'", fix="Correct the CSV row.")
    return int(text or 0)
