"""Complete checks of files and of whole folders: what a check found, and checksums of what we wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lary_policy.console import OnProgress
from lary_policy.data.arrays import read_chunk, read_numbers
from lary_policy.data.clips import ClipTable
from lary_policy.data.pairs import PairTable
from lary_policy.data.parallel import Failure, for_each
from lary_policy.data.spec import Source
from lary_policy.errors import DatasetError, FrameFormatError, LaryPolicyError
from lary_policy.frames import check_video, decode_frame, file_digest, frame_ids
from lary_policy.paths import foreign_file, read_json, resolve_inside, visible_files, write_json
from lary_policy.types import Quarantined


@dataclass(frozen=True)
class IntegrityReport:
    """Result of a check.

    Attributes:
        root: What was checked.
        checked: How many of each kind of thing were looked at.
        problems: Everything that is wrong; empty when all is well.
        unverifiable: What nobody can tell from the files, in words.
    """

    root: Path
    checked: dict[str, int]
    problems: tuple[Quarantined, ...]
    unverifiable: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


DEFAULT_TIMEOUT_S = 30.0  # a 20 s clip decodes in 1 s; a network disk may need longer for its first byte
MediaKind = Literal["image", "action", "clip", "file"]


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file that rows name.

    Attributes:
        kind: What it must be.
        path: Where it lies.
        needs: Of an action its steps and dimensions; of a clip the number of its last frame to see.
    """

    kind: MediaKind
    path: Path
    needs: tuple[int, ...] = ()


def check_file(file: MediaFile) -> str:
    """Read a file completely and return the sha256 of its content.

    Raises:
        FrameFormatError: An image or a frame of a clip does not decode, or the clip is not as long as stated
            or needed.
        DatasetError: An action is missing, of another size or not finite.
    """
    return _CHECKS[file.kind](file)


def _image(file: MediaFile) -> str:
    decode_frame(file.path)
    return file_digest(file.path, trust=False)


def _action(file: MediaFile) -> str:
    steps, dim = file.needs
    read_chunk(file.path, steps, dim)
    stored = read_numbers(file.path, steps * dim).dtype
    if stored.kind != "f":
        raise DatasetError(
            expected=f"actions in floating point at {file.path}",
            got=f"{stored}, which cannot hold metres and radians",
            fix="Write the file anew.",
        )
    return file_digest(file.path, trust=False)


def _clip(file: MediaFile) -> str:
    info = check_video(file.path)
    (last,) = file.needs
    if info.lie or last >= info.frames:
        raise FrameFormatError(
            expected=f"a clip as long as its container says, with a frame {last}, at {file.path}",
            got=info.lie or f"{info.frames} frames",
            fix="Restore the file, or run `lary data indices` again.",
        )
    return file_digest(file.path, trust=False)


def _file(file: MediaFile) -> str:
    return file_digest(file.path, trust=False)


_CHECKS = {"image": _image, "action": _action, "clip": _clip, "file": _file}
CHECKSUMS_FILE = "checksums.json"
NO_CHECKSUMS = (
    "No checksums came with these files: a number, picture or label that was changed into another valid one "
    "cannot be told from the right one."
)


def write_checksums(root: Path, name: str = CHECKSUMS_FILE, *, without: Collection[str] = ()) -> None:
    """Write the sha256 of every file below a folder into one file there, for `find_changes`.

    Args:
        root: The folder, whose files are complete.
        name: Path of the file below it.
        without: Paths below the folder that are left out.

    Raises:
        StoreError: The disk is full or not writable.
    """
    files = [p.relative_to(root).as_posix() for p in visible_files(root, "**/*") if p.is_file()]
    kept = [path for path in files if path != name and path not in without]
    write_json(root / name, {path: file_digest(root / path, trust=False) for path in kept})


def find_changes(
    root: Path,
    name: str = CHECKSUMS_FILE,
    *,
    without: Collection[str] = (),
    workers: int = 2,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Iterator[Quarantined]:
    """Read every file below a folder and yield those that are not what `write_checksums` saw.

    Args:
        root: The folder.
        name: Path of the file with the checksums below it.
        without: Paths below the folder that may be there besides.
        workers: Processes; 0 reads here, without time limit.
        timeout_s: Seconds for one file.
    """
    try:
        with foreign_file("checksums of a dataset", root / name, "Restore the file."):
            stated = {str(path): str(digest) for path, digest in read_json(root / name).items()}
            files = [MediaFile("file", resolve_inside(root, path)) for path in stated]
    except LaryPolicyError as error:
        yield Quarantined(name, str(error), "checksums")
        return
    paths = list(stated)
    for i, found in for_each(check_file, files, workers=workers, timeout_s=timeout_s):
        if isinstance(found, Failure):
            yield Quarantined(paths[i], found.reason, "checksums")
        elif found != stated[paths[i]]:
            yield Quarantined(paths[i], "its content is not what was written", "checksums")
    present = {p.relative_to(root).as_posix() for p in visible_files(root, "**/*") if p.is_file()}
    for path in sorted(present - {name, *without} - set(stated)):
        yield Quarantined(path, "it was not written with the others", "checksums")


def verify_files(
    root: Path,
    *,
    name: str = CHECKSUMS_FILE,
    without: Collection[str] = (),
    workers: int = 0,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    on_progress: OnProgress | None = None,
) -> IntegrityReport:
    """Compare every file below a folder with its checksums.

    Args:
        root: The folder.
        name: Path of the file with the checksums below it.
        without: Paths below it that may be there besides.
        workers: Processes that read files; 0 reads them here, without time limit.
        timeout_s: Seconds for one file.
        on_progress: Called with (1, 1) in the end.
    """
    shared: dict[str, Any] = {"without": without, "workers": workers, "timeout_s": timeout_s}
    problems = tuple(find_changes(root, name, **shared))
    count = sum(p.is_file() for p in visible_files(root, "**/*"))
    if on_progress is not None:
        on_progress(1, 1)
    return IntegrityReport(root, {"files": count}, problems)


def lost_checksums(about: Path) -> list[Quarantined]:
    """Return that checksums are lost, where the description of a dataset says that they were written."""
    try:
        name = read_json(about).get("checksums") if about.is_file() else None
    except LaryPolicyError as error:
        return [Quarantined(about.name, str(error), "checksums")]
    return [Quarantined(str(name), "it was written with the dataset, and is missing", "checksums")][
        : bool(name)
    ]


def require_written(path: Path, name: str = CHECKSUMS_FILE) -> None:
    """Refuse a file that is not what the checksums beside it say; without checksums nobody can tell.

    Raises:
        DatasetError: It is another one, or the checksums are damaged.
    """
    if not (path.parent / name).is_file():
        return
    stated = read_json(path.parent / name).get(path.name)
    if stated not in (None, file_digest(path, trust=False)):
        raise DatasetError(
            expected=f"{path} as it was written, of sha256 {stated}",
            got=file_digest(path, trust=False),
            fix="Write it anew with the same command.",
        )


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
    frames = table.frame_paths()
    ids = {
        frame: name if isinstance(name, str) else UNREADABLE
        for frame, name in zip(frames, frame_ids(frames), strict=True)
    }
    yield table.cameras, table.has_states, table.has_labels
    for row in table.rows:
        words = (row.episode, row.src_step, row.tgt_step, row.label, row.robot_type, row.noise_steps)
        yield words, [ids[frame] for frame in row.src_frames], [ids[frame] for frame in row.tgt_frames]


def _add(found: hashlib._Hash, values: Tensor) -> None:
    found.update(f"{values.dtype}{tuple(values.shape)}".encode())
    found.update(values.contiguous().numpy().tobytes())
