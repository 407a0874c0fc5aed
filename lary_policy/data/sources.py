"""Reader of LARYBench metadata CSVs; what simulated demonstrations are written as, too."""

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

_STEP = re.compile(r"frame_(\d+)$")
Values = NDArray[np.float32]


@dataclass(frozen=True)
class _Format:
    """What every row of one CSV has in common."""

    columns: tuple[str, ...]
    cameras: dict[str, tuple[str, str]]
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
    columns, cells = read_metadata(path)
    known = layout.camera_columns(columns, _first_camera(Path(root)))
    chosen = tuple(known if cameras is None else cameras)
    for camera in chosen:
        if camera not in known:
            raise UnknownNameError("camera", camera, known)
    resolver = PathResolver(Path(root))
    form = _Format(
        columns=columns,
        cameras={camera: known[camera] for camera in chosen},
        stride=stride,
        action_dim=embodiment.action_dim,
        has_states="src_state" in columns and _any_state(resolver, cells),
    )
    return _table(path, cells, form, resolver)


def read_metadata(path: Path) -> tuple[tuple[str, ...], list[dict[str, str]]]:
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
    missing = [c for c in layout.REQUIRED_COLUMNS if c not in columns]
    if missing or len(set(columns)) != len(columns):
        raise DatasetError(
            expected=f"columns {', '.join(layout.REQUIRED_COLUMNS)} once each in {path.name}",
            got=f"columns {', '.join(columns) or '(none)'}"
            + (f"; missing {', '.join(missing)}" if missing else ""),
            fix="Add the missing columns or choose a regression CSV.",
        )
    return columns, rows


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


def _any_state(resolver: PathResolver, cells: Sequence[Mapping[str, str]]) -> bool:
    """Tell whether the states named in the CSV were shipped at all (CALVIN's were not)."""
    for row in cells:
        try:
            if resolver(row.get("src_state"), layout.STATES).is_file():
                return True
        except LaryPolicyError:
            continue
    return False


def _table(path: Path, cells: list[dict[str, str]], form: _Format, resolver: PathResolver) -> PairTable:
    rows: list[PairRow] = []
    values: list[tuple[Values, Values, Values]] = []
    quarantined: list[Quarantined] = []
    for line, cell in enumerate(cells, start=2):
        try:
            row, numbers = _read_row(line, cell, form, resolver)
        except LaryPolicyError as error:
            quarantined.append(Quarantined(f"{path.name}:{line}", str(error), "load_pairs"))
            continue
        rows.append(row)
        values.append(numbers)
    if not rows:
        raise _nothing_usable(path, quarantined)
    actions, executed, anchors = (torch.from_numpy(np.stack(column)) for column in zip(*values, strict=True))
    return PairTable(
        rows=tuple(rows),
        cameras=tuple(form.cameras),
        quarantined=tuple(quarantined),
        source=path,
        has_states=form.has_states,
        has_labels="label" in form.columns,
        action_values=actions,
        executed_values=executed,
        anchor_values=anchors,
    )


def _read_row(
    line: int, cell: Mapping[str, str], form: _Format, resolver: PathResolver
) -> tuple[PairRow, tuple[Values, Values, Values]]:
    if None in cell or any(value is None for value in cell.values()):
        raise DatasetError(
            expected=f"{len(form.columns)} fields", got="another number of them", fix="Correct the CSV row."
        )
    src, tgt = (
        tuple(resolver(cell[pair[i]], layout.IMAGES) for pair in form.cameras.values()) for i in (0, 1)
    )
    src_step, tgt_step = _step(src[0]), _step(tgt[0])
    if src_step is not None and tgt_step is not None and tgt_step - src_step != form.stride:
        raise DatasetError(
            expected=f"frames {form.stride} steps apart",
            got=f"{src[0].name} and {tgt[0].name}",
            fix="Choose the stride this dataset was made with.",
        )
    action_path = resolver(cell["action"], layout.ACTIONS)
    actions = read_chunk(action_path, form.stride, form.action_dim)
    executed = actions
    if cell.get("executed"):
        executed = read_chunk(resolver(cell["executed"], layout.EXECUTED), form.stride, form.action_dim)
    anchor = actions[0]
    if form.has_states:
        anchor = read_chunk(resolver(cell["src_state"], layout.STATES), 1, form.action_dim)[0]
    row = PairRow(
        line=line,
        episode=cell.get("episode") or layout.episode_key(cell["src_img"]),
        src_step=src_step,
        tgt_step=tgt_step,
        src_frames=src,
        tgt_frames=tgt,
        action=action_path,
        label=cell.get("label", ""),
        noise_steps=_count(cell.get("noise_steps", "")),
    )
    return row, (actions, executed, anchor)


def _step(frame: Path) -> int | None:
    match = _STEP.search(frame.stem)
    return int(match.group(1)) if match else None


def _count(text: str) -> int:
    if text and not text.isdecimal():
        raise DatasetError(expected="a count in noise_steps", got=f"'{text}'", fix="Correct the CSV row.")
    return int(text or 0)


def _nothing_usable(path: Path, quarantined: Sequence[Quarantined]) -> DatasetError:
    reasons = Counter(q.reason for q in quarantined)
    first = reasons.most_common(1)[0][0] if reasons else "the CSV has no rows"
    return DatasetError(
        expected=f"at least one usable row in {path}",
        got=f"{len(quarantined)} quarantined rows; for example: {first}",
        fix="Run `lary data verify` for the whole list.",
    )
