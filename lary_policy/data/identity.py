"""What a result depends on, as one digest: the content of frames, actions and labels, never their names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from torch import Tensor

from lary_policy.data.clips import ClipTable
from lary_policy.data.pairs import PairTable
from lary_policy.data.spec import Source
from lary_policy.errors import FrameFormatError
from lary_policy.frames import Frame, frame_id

UNREADABLE = "unreadable"  # stands for a frame without content; its row is set aside later
_NAMES = ("key", "where", "splits")  # of the spec: what a source is called, or could be asked besides


def content_digest(
    source: Source, *splits: str, tables: Mapping[str, PairTable | ClipTable] | None = None
) -> str:
    """Return 64 hex digits that change with anything that a result on these splits depends on.

    Two folders of the same names and rows with other pictures differ, and so does a folder whose pictures,
    videos, actions or labels were corrected in place; a copy under other names is the same. Every file of a
    frame is read once; `remember_digests` lets later runs skip those that did not change.

    Args:
        source: The source.
        *splits: Which of its splits; all of those that it trains, selects and reports on by default.
        tables: Tables of splits that were read already.

    Raises:
        UnknownNameError: There is no such split.
        DatasetError: A split cannot be read.
    """
    spec, read = source.spec, dict(tables or {})
    chosen = splits or tuple(dict.fromkeys((spec.train_split, spec.select_split, *spec.report_splits)))
    facts = {name: value for name, value in asdict(spec).items() if name not in _NAMES}
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for split in chosen:
        spec.check_split(split)
        table = read.get(split) or (source.pairs(split) if spec.kind == "pairs" else source.clips(split))
        found.update(f"{split}:{table_digest(table)}".encode())
    return found.hexdigest()


def table_digest(table: PairTable | ClipTable) -> str:
    """Return the digest of the rows of a table in their order, with the content of their frames."""
    found = hashlib.sha256(type(table).__name__.encode())
    for words in _clips(table) if isinstance(table, ClipTable) else _pairs(table):
        found.update(json.dumps(words).encode())
    if isinstance(table, PairTable):
        for values in (table.action_values, table.executed_values, table.anchor_values):
            _add(found, values)
    return found.hexdigest()


def _clips(table: ClipTable) -> Iterable[object]:
    for row in table.rows:
        try:
            frames = table.frame_ids(row)
        except FrameFormatError:
            frames = (UNREADABLE,)
        yield frames, row.label, row.recording, row.clamp


def _pairs(table: PairTable) -> Iterable[object]:
    ids: dict[Frame, str] = {}

    def content(frames: Iterable[Frame]) -> list[str]:
        for frame in frames:
            if frame not in ids:
                ids[frame] = _frame_id(frame)
        return [ids[frame] for frame in frames]

    yield table.cameras, table.has_states, table.has_labels
    for row in table.rows:
        words = (row.episode, row.src_step, row.tgt_step, row.label, row.robot_type, row.noise_steps)
        yield words, content(row.src_frames), content(row.tgt_frames)


def _frame_id(frame: Frame) -> str:
    try:
        return frame_id(frame)
    except FrameFormatError:
        return UNREADABLE


def _add(found: hashlib._Hash, values: Tensor) -> None:
    found.update(f"{values.dtype}{tuple(values.shape)}".encode())
    found.update(values.contiguous().numpy().tobytes())
