"""What a row of a benchmark's CSV says by itself, before any file is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lary_policy.data import layout
from lary_policy.data.benchmark import BenchmarkSet, require_stride
from lary_policy.data.clip_csv import parse_indices
from lary_policy.data.file_checks import MediaFile
from lary_policy.data.pair_csv import Cells, PairFile, check_fields, step_of
from lary_policy.errors import DatasetError

_SPAN = re.compile(r"action_(\d+)to(\d+)$")


@dataclass(frozen=True)
class RowContent:
    """What one row stands for.

    Attributes:
        files: Files it names.
        name: Names the sample: two rows with the same are duplicates.
        twin: Shared by a sample and the one that is the same backwards.
        label: Its class, or "" in a dataset of actions.
    """

    files: tuple[MediaFile, ...]
    name: str
    twin: str
    label: str


def read_row(data: BenchmarkSet, action_dim: int, file: PairFile, cells: Cells) -> RowContent:
    """Check a row and return what it stands for.

    Args:
        data: Dataset that the row is of.
        action_dim: Numbers of an action, 0 in a dataset of classes.
        file: CSV that the row stands in.
        cells: The row.

    Raises:
        DatasetError: A cell is empty or contradicts another.
        UnsafePathError: A path leaves the root.
    """
    check_fields(cells)
    if data.kind == "clips":
        return _clip(file, cells)
    if data.embodiment is None:
        return _labelled_pair(file, cells)
    return _pair(data, action_dim, file, cells)


def _clip(file: PairFile, cells: Cells) -> RowContent:
    video, indices = cells["video_path"], parse_indices(cells["sample_indices"])
    path = PurePosixPath(video)
    twin = str(path.with_name(path.name.replace("_rev.", ".")))
    media = MediaFile("clip", file.resolver(video, ""), (indices[-1],))
    return RowContent((media,), video, twin, _label(cells))


def _labelled_pair(file: PairFile, cells: Cells) -> RowContent:
    paths = [file.resolver(cells[column], "") for column in ("src_img", "tgt_img")]
    names = [str(path.relative_to(file.resolver.root.resolve())) for path in paths]
    files = tuple(MediaFile("image", path) for path in paths)
    return RowContent(files, " > ".join(names), " and ".join(sorted(names)), _label(cells))


def _label(cells: Cells) -> str:
    if not cells["action"].strip():
        raise DatasetError(expected="a class in column action", got="an empty cell", fix="Complete the row.")
    return cells["action"].strip()


def _pair(data: BenchmarkSet, action_dim: int, file: PairFile, cells: Cells) -> RowContent:
    stride = require_stride(data)
    src, tgt = (file.resolver(cells[column], layout.IMAGES) for column in ("src_img", "tgt_img"))
    action = file.resolver(cells["action"], layout.ACTIONS)
    _check_steps(src, tgt, action, stride)
    if data.statistics == "per_robot" and not cells.get("robot_type", "").strip():
        raise DatasetError(
            expected="a robot type",
            got="a blank one",
            fix="Complete the row, or pass unknown_robots=pool where statistics are used.",
        )
    images = (MediaFile("image", src), MediaFile("image", tgt))
    chunk = MediaFile("action", action, (stride, action_dim))
    return RowContent((*images, chunk), f"{src} > {tgt}", "", "")


def _check_steps(src: Path, tgt: Path, action: Path, stride: int) -> None:
    """Raise DatasetError unless frames and action are of the same episode and of the right steps."""
    first, last = step_of(src), step_of(tgt)
    span = _SPAN.search(action.stem)
    if first is None or last is None or span is None:
        return  # names without numbers say nothing that could be wrong
    if last - first != stride or (int(span[1]), int(span[2])) != (first, last - 1):
        raise DatasetError(
            expected=f"frames {stride} steps apart and the action from the first to before the second",
            got=f"{src.name}, {tgt.name} and {action.name}",
            fix="Correct the row, or choose the key with the stride of this CSV.",
        )
    if len({path.parent.name for path in (src, tgt, action)}) > 1:
        raise DatasetError(
            expected="frames and action of one episode",
            got=f"files in folders {src.parent.name}, {tgt.parent.name} and {action.parent.name}",
            fix="Correct the row; the benchmark's own VLABench CSVs have some without the episode's folder.",
        )
