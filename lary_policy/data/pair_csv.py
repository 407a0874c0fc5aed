"""Reader of LARYBench pair CSVs; what simulated demonstrations are written as, too."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lary_policy.data import layout
from lary_policy.data.actions import read_chunk
from lary_policy.data.pairs import PairRow, PairTable
from lary_policy.data.resolver import PathResolver
from lary_policy.embodiment import Embodiment
from lary_policy.errors import DatasetError, LaryPolicyError, UnknownNameError
from lary_policy.types import Quarantined

_STEP = re.compile(r"frame_(\d+)(\.[^./]*)?$")
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
class _Format:
    """What every row of one table has in common."""

    cameras: Mapping[str, tuple[str, str]]
    stride: int
    action_dim: int
    has_states: bool


def load_pairs(
    root: Path,
    dataset: str,
    split: str,
    *,
    embodiment: Embodiment,
    stride: int,
    cameras: Sequence[str] | None = None,
) -> PairTable:
    """Read the pairs of one split with their actions; images are not opened here.

    A row whose action or state file is missing, of another length or not finite, or whose paths leave the
    root, is quarantined with its reason and never dropped silently.

    Args:
        root: Dataset root; CSV paths are relative to it.
        dataset: Dataset name in the CSV's file name.
        split: Split name in the CSV's file name.
        embodiment: Action layout of the dataset.
        stride: Control steps k between the frames of a pair.
        cameras: Cameras to use, in this order; None for all the CSV has.

    Raises:
        DatasetError: The CSV is missing, unreadable, lacks a needed column, or no row of it is usable.
        UnknownNameError: A camera is not in the CSV.
    """
    path = layout.find_metadata(Path(root), dataset, split)
    return read_pairs([open_pair_csv(path, Path(root))], embodiment, stride, cameras)


def open_pair_csv(path: Path, root: Path, namespace: str = "") -> PairFile:
    """Read a metadata CSV whose paths are relative to `root`.

    Raises:
        DatasetError: It is no UTF-8 CSV or lacks needed columns.
    """
    columns, cells = read_metadata(path)
    return PairFile(path, columns, tuple(enumerate(cells, start=2)), PathResolver(root), namespace)


def read_pairs(
    files: Sequence[PairFile],
    embodiment: Embodiment,
    stride: int,
    cameras: Sequence[str] | None = None,
    *,
    states: bool = True,
) -> PairTable:
    """Read the rows of one or more CSVs with their actions into one table.

    Args:
        files: CSVs of the same dataset.
        embodiment: Action layout.
        stride: Control steps k between the frames of a pair.
        cameras: Cameras to use, in this order; None for all the CSVs have.
        states: Whether anchors are the measured poses, where those were shipped.

    Raises:
        DatasetError: No row is usable.
        UnknownNameError: A camera is not in a CSV.
    """
    known = {
        name: columns
        for file in files
        for name, columns in layout.camera_columns(file.columns, _first_camera(file.resolver.root)).items()
    }
    chosen = tuple(known if cameras is None else cameras)
    for camera in chosen:
        if camera not in known:
            raise UnknownNameError("camera", camera, known)
    form = _Format(
        cameras={camera: known[camera] for camera in chosen},
        stride=stride,
        action_dim=embodiment.action_dim,
        has_states=states and any("src_state" in file.columns and _any_state(file) for file in files),
    )
    return _table(files, form)


def read_metadata(
    path: Path, required: Sequence[str] = layout.REQUIRED_COLUMNS
) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Read a metadata CSV into its columns and rows.

    Raises:
        DatasetError: It is no UTF-8 CSV, or lacks needed columns (the message names them and the present).
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = tuple(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            expected=f"a UTF-8 CSV at {path}",
            got=f"{type(error).__name__}: {error}",
            fix="Restore the file or write the dataset anew.",
        ) from error
    missing = [c for c in required if c not in columns]
    if missing or len(set(columns)) != len(columns):
        raise DatasetError(
            expected=f"columns {', '.join(required)} once each in {path.name}",
            got=f"columns {', '.join(columns) or '(none)'}"
            + (f"; missing {', '.join(missing)}" if missing else ""),
            fix="Add the missing columns or choose another CSV.",
        )
    return columns, rows


def check_fields(cells: Cells) -> None:
    """Raise DatasetError if a row of a CSV has more or fewer fields than the header."""
    if None in cells or any(value is None for value in cells.values()):
        count = sum(key is not None for key in cells)
        raise DatasetError(
            expected=f"{count} fields", got="another number of them", fix="Correct the CSV row."
        )


def nothing_usable(path: Path, quarantined: Sequence[Quarantined]) -> DatasetError:
    """Return the error of a CSV of which every row was set aside."""
    reasons = Counter(q.reason for q in quarantined)
    if not reasons:
        return DatasetError(
            expected=f"at least one usable row in {path}", got="no rows at all", fix="Restore the whole file."
        )
    return DatasetError(
        expected=f"at least one usable row in {path}",
        got=f"{len(quarantined)} quarantined rows; for example: {reasons.most_common(1)[0][0]}",
        fix="Run `lary data verify` for the whole list.",
    )


def step_of(frame: Path) -> int | None:
    """Return the control step in the name of an image, or None if it has none."""
    match = _STEP.search(str(frame))
    return int(match.group(1)) if match else None


def _first_camera(root: Path) -> str:
    path = root / layout.DATASET_FILE
    if not path.is_file():
        return layout.UNNAMED_CAMERA
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["cameras"][0])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise DatasetError(
            expected=f"a JSON object with `cameras` in {path}",
            got=f"{type(error).__name__}: {error}",
            fix="Restore the file or write the dataset anew with `lary data`.",
        ) from error


def _any_state(file: PairFile) -> bool:
    """Tell whether the states named in the CSV were shipped at all (CALVIN's were not)."""
    for _, cells in file.rows:
        try:
            if file.resolver(cells.get("src_state"), layout.STATES).is_file():
                return True
        except LaryPolicyError:
            continue
    return False


def _table(files: Sequence[PairFile], form: _Format) -> PairTable:
    rows: list[PairRow] = []
    values: list[tuple[Values, Values, Values]] = []
    quarantined: list[Quarantined] = []
    for file in files:
        for line, cells in file.rows:
            try:
                row, numbers = _read_row(line, cells, form, file)
            except LaryPolicyError as error:
                quarantined.append(Quarantined(f"{file.path.name}:{line}", str(error), "load_pairs"))
                continue
            rows.append(row)
            values.append(numbers)
    if not rows:
        raise nothing_usable(files[0].path, quarantined)
    actions, executed, anchors = zip(*values, strict=True)
    clean = torch.from_numpy(np.stack(actions))
    same = all(one is other for one, other in zip(actions, executed, strict=True))
    return PairTable(
        rows=tuple(rows),
        cameras=tuple(form.cameras),
        quarantined=tuple(quarantined),
        source=files[0].path,
        has_states=form.has_states,
        has_labels=any("label" in file.columns for file in files),
        action_values=clean,
        executed_values=clean if same else torch.from_numpy(np.stack(executed)),
        anchor_values=torch.from_numpy(np.stack(anchors)),
    )


def _read_row(
    line: int, cells: Cells, form: _Format, file: PairFile
) -> tuple[PairRow, tuple[Values, Values, Values]]:
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


def _count(text: str) -> int:
    if text and not text.isdecimal():
        raise DatasetError(expected="a count in noise_steps", got=f"'{text}'", fix="Correct the CSV row.")
    return int(text or 0)
