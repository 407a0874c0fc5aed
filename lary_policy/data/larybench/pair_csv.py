"""Reader of LARYBench pair CSVs; what simulated demonstrations are written as, too."""

from __future__ import annotations

import csv
import gc
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from lary_policy.actions import Embodiment
from lary_policy.data import layout
from lary_policy.data.larybench.pair_rows import (
    BLOCK_ROWS,
    Cells,
    PairBlock,
    PairFile,
    PairFormat,
    PairReader,
    check_fields,
    class_of,
)
from lary_policy.data.layout import PathResolver
from lary_policy.data.pairs import PairRow, PairTable
from lary_policy.errors import DatasetError, LaryPolicyError, UnknownNameError
from lary_policy.paths import foreign_file, open_regular, read_json
from lary_policy.settings import some_and_different
from lary_policy.types import Quarantined


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
    fix = "Choose a dataset and split that exist, or write demonstrations with `lary data`."
    path = layout.find_metadata([Path(root)], dataset, split, fix)
    return read_pairs([open_csv(path, Path(root))], embodiment, stride, cameras)


def open_csv(
    path: Path, root: Path, required: Sequence[str] = layout.REQUIRED_COLUMNS, namespace: str = ""
) -> PairFile:
    """Read a metadata CSV whose paths are relative to `root`; DatasetError as `read_metadata`."""
    columns, cells = read_metadata(path, required)
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
        ConfigError: A camera is asked for twice.
    """
    known = {
        name: columns
        for file in files
        for name, columns in layout.camera_columns(file.columns, _first_camera(file.resolver.root)).items()
    }
    chosen = tuple(known if cameras is None else cameras)
    some_and_different("cameras", chosen)
    for camera in chosen:
        if camera not in known:
            raise UnknownNameError("camera", camera, known)
    form = PairFormat(
        cameras={camera: known[camera] for camera in chosen},
        stride=stride,
        action_dim=embodiment.action_dim,
        has_states=states and any("src_state" in file.columns and _any_state(file) for file in files),
    )
    with _without_collection():
        return _table(files, form)


def read_metadata(
    path: Path, required: Sequence[str] = layout.REQUIRED_COLUMNS
) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Read a metadata CSV into its columns and rows.

    Raises:
        DatasetError: It is no UTF-8 CSV, or lacks needed columns (the message names them and the present).
    """
    fix = "Restore the file or write the dataset anew."
    with foreign_file("a UTF-8 CSV", path, fix), open_regular(path) as (raw, _), _without_collection():
        lines = csv.reader(io.TextIOWrapper(raw, encoding="utf-8-sig", newline=""), strict=True)
        columns = tuple(next(lines, ()))
        rows = [_cells(columns, values) for values in lines if values]
    missing = [c for c in required if c not in columns]
    if missing or len(set(columns)) != len(columns):
        raise DatasetError(
            expected=f"columns {', '.join(required)} once each in {path.name}",
            got=f"columns {', '.join(columns) or '(none)'}"
            + (f"; missing {', '.join(missing)}" if missing else ""),
            fix="Add the missing columns or choose another CSV.",
        )
    return columns, rows


def _cells(columns: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    """Return a row's cells as `csv.DictReader` does, in half the time: fields too many are under None."""
    cells: dict[Any, Any] = dict(zip(columns, values, strict=False))
    if len(values) < len(columns):
        cells.update(dict.fromkeys(columns[len(values) :]))
    elif len(values) > len(columns):
        cells[None] = values[len(columns) :]
    return cells


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep the collector from searching all new rows again and again: none of them is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def usable_rows[R](
    files: Sequence[PairFile], read: Callable[[PairFile, int, Cells], R], step: str
) -> tuple[list[R], list[Quarantined]]:
    """Read every row of some CSVs on its own; those that cannot be used are set aside in this step."""
    rows: list[R] = []
    quarantined: list[Quarantined] = []
    for file in files:
        for line, cells in file.rows:
            try:
                check_fields(cells)
                rows.append(read(file, line, cells))
            except LaryPolicyError as error:
                quarantined.append(Quarantined(f"{file.path.name}:{line}", str(error), step))
    if not rows:
        raise nothing_usable(files[0].path, quarantined)
    return rows, quarantined


def nothing_usable(path: Path, quarantined: Sequence[Quarantined]) -> DatasetError:
    """Return the error of a CSV of which every row was set aside."""
    expected = f"at least one usable row in {path}"
    if not quarantined:
        return DatasetError(expected=expected, got="no rows at all", fix="Restore the whole file.")
    ((reason, _),) = Counter(q.reason for q in quarantined).most_common(1)
    got = f"{len(quarantined)} quarantined rows; for example: {reason}"
    return DatasetError(expected=expected, got=got, fix="Run `lary data verify` for the whole list.")


def _first_camera(root: Path) -> str:
    path = root / layout.DATASET_FILE
    if not path.is_file():
        return layout.UNNAMED_CAMERA
    with foreign_file("a JSON object with cameras", path, "Restore the file or write the dataset anew."):
        return str(read_json(path)["cameras"][0])


def _any_state(file: PairFile) -> bool:
    """Tell whether the states named in the CSV were shipped at all (CALVIN's were not)."""
    for _, cells in file.rows:
        try:
            if file.resolver(cells.get("src_state"), layout.STATES).is_file():
                return True
        except LaryPolicyError:
            continue
    return False


def _table(files: Sequence[PairFile], form: PairFormat) -> PairTable:
    blocks: list[PairBlock] = []
    quarantined: list[Quarantined] = []
    for file in files:
        reader = PairReader(file, form)
        for first in range(0, len(file.rows), BLOCK_ROWS):
            block, aside = reader.read(file.rows[first : first + BLOCK_ROWS])
            blocks.append(block)
            quarantined += aside
    rows = tuple(row for block in blocks for row in block.rows)
    if not rows:
        raise nothing_usable(files[0].path, quarantined)
    actions = torch.from_numpy(np.concatenate([block.actions for block in blocks]))
    executed = actions
    if any(block.executed is not block.actions for block in blocks):
        executed = torch.from_numpy(np.concatenate([block.executed for block in blocks]))
    return PairTable(
        rows=rows,
        cameras=tuple(form.cameras),
        quarantined=tuple(quarantined),
        source=files[0].path,
        has_states=form.has_states,
        has_labels=any("label" in file.columns for file in files),
        action_values=actions,
        executed_values=executed,
        anchor_values=torch.from_numpy(np.concatenate([block.anchors for block in blocks])),
    )


def demonstration_of(image: str) -> str:
    """Return the demonstration of an image `<suite>/<task>/demo_<k>/action_<n>/action_<start|end>.png`.

    A segment used forward and the same one with its images swapped belong to one demonstration.
    """
    return str(PurePosixPath(image).parent.parent)


def read_label_pairs(files: Sequence[PairFile]) -> PairTable:
    """Read rows whose `action` is a class; DatasetError where no row is usable."""
    rows, quarantined = usable_rows(files, _label_pair, "load_pairs")
    return PairTable.of_classes(rows, (layout.UNNAMED_CAMERA,), quarantined, files[0].path)


def _label_pair(file: PairFile, line: int, cells: Cells) -> PairRow:
    label, src, tgt = class_of(cells), cells["src_img"], cells["tgt_img"]
    return PairRow(
        line=line,
        episode=demonstration_of(src),
        src_step=None,
        tgt_step=None,
        src_frames=(file.resolver(src, ""),),
        tgt_frames=(file.resolver(tgt, ""),),
        action=file.path,
        label=label,
        noise_steps=0,
        csv=file.path.name,
    )
