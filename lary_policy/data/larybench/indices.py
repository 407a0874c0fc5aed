"""Writes the column `sample_indices` of clip CSVs; what `lary data indices` runs (protocol section 3)."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lary_policy.console import OnProgress
from lary_policy.data.larybench.pair_csv import read_metadata
from lary_policy.data.larybench.pair_rows import check_fields
from lary_policy.data.larybench.sampling import frame_differences, is_short, select_frames
from lary_policy.data.larybench.sets import CLIP_FRAMES
from lary_policy.data.layout import PathResolver
from lary_policy.data.parallel import Failure, for_each
from lary_policy.errors import DatasetError, LaryPolicyError
from lary_policy.frames import probe_video
from lary_policy.paths import SEAL, atomic_write, json_sha256, parse_json
from lary_policy.types import Quarantined

COLUMN = "sample_indices"
DEFAULT_TIMEOUT_S = 120.0  # ten times what a 20 s clip of 640 x 480 takes on one core


@dataclass(frozen=True, slots=True)
class ClipJob:
    """A clip whose frames are to be chosen: how many, and by which protocol (`native` or `lary`)."""

    path: Path
    num_frames: int
    protocol: str


@dataclass(frozen=True)
class ClipIndices:
    """The frames of one clip.

    Attributes:
        indices: Their numbers.
        method: How they were chosen, see `FrameSelection`.
        lie: What is wrong with the length that the container states, or "".
        size: Bytes of the file they were chosen from.
    """

    indices: tuple[int, ...]
    method: str
    lie: str
    size: int


@dataclass(frozen=True)
class IndicesReport:
    """What one run did.

    Attributes:
        path: The CSV written.
        rows: Rows in it, as many as were read.
        reused: Clips that an interrupted run had finished.
        methods: Clips by the way their frames were chosen.
        lies: Clips whose container lies about its length.
        quarantined: Clips without indices; their cell is empty.
    """

    path: Path
    rows: int
    reused: int
    methods: dict[str, int]
    lies: tuple[Quarantined, ...]
    quarantined: tuple[Quarantined, ...]


def choose_indices(job: ClipJob) -> ClipIndices:
    """Choose the frames of one clip.

    Raises:
        FrameFormatError: The file is missing or damaged.
        DatasetError: It has a single frame or none.
    """
    info = probe_video(job.path)
    lary = job.protocol == "lary"
    # The reference trusts the container: it takes its word on short clips, and spaces their frames by it.
    frames = info.claimed if lary else info.frames
    differences = None
    if not (frames > 0 and is_short(frames, job.num_frames)):
        differences = frame_differences(job.path)
        if is_short(len(differences) + 1, job.num_frames):
            differences = None
    chosen = select_frames(differences, frames, num_frames=job.num_frames, protocol=job.protocol)
    return ClipIndices(chosen.indices, chosen.method, info.lie, job.path.stat().st_size)


def write_indices(
    source: Path,
    media_root: Path,
    output: Path,
    *,
    num_frames: int = CLIP_FRAMES,
    protocol: str = "native",
    workers: int = 2,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    on_progress: OnProgress | None = None,
) -> IndicesReport:
    """Copy a clip CSV with the column `sample_indices` filled in; start again to continue.

    Every row is kept. Clips without indices have an empty cell, which readers quarantine, and are reported.

    Args:
        source: CSV with a column `video_path`.
        media_root: Folder that its paths start from.
        output: CSV to write. Finished clips are noted in `<output>.partial` until it is complete.
        num_frames: Frames of a clip.
        protocol: See `select_frames`.
        workers: Processes.
        timeout_s: Seconds for one clip.
        on_progress: Called with (clips done, clips in all).

    Raises:
        DatasetError: The CSV cannot be read or has ragged rows, or not one clip could be used.
        StoreError: The disk is full or not writable.
    """
    columns, rows = read_metadata(source, ("video_path",))
    for row in rows:
        check_fields(row)
    paths, problems = _resolve([row["video_path"] for row in rows], media_root)
    notes = _Notes(
        output.with_name(f"{output.name}.partial"), {"num_frames": num_frames, "protocol": protocol}
    )
    done = notes.read(paths)
    reused = len(done)
    todo = [name for name in paths if name not in done]
    jobs = [ClipJob(paths[name], num_frames, protocol) for name in todo]
    progress = on_progress and (lambda count, _: on_progress(reused + count, len(paths)))
    results = for_each(choose_indices, jobs, workers=workers, timeout_s=timeout_s, on_progress=progress)
    for i, result in results:
        if isinstance(result, Failure):
            problems[todo[i]] = result.reason
        else:
            done[todo[i]] = result
            notes.add(todo[i], result)
    if not done:
        raise _nothing(source, problems)
    _write(output, columns, rows, done)
    notes.path.unlink(missing_ok=True)
    return IndicesReport(
        path=output,
        rows=len(rows),
        reused=reused,
        methods=dict(Counter(clip.method for clip in done.values())),
        lies=tuple(Quarantined(name, clip.lie, "container") for name, clip in done.items() if clip.lie),
        quarantined=tuple(Quarantined(name, reason, "indices") for name, reason in problems.items()),
    )


def _resolve(names: Sequence[str], root: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the file of each clip, each once, and the reason for each that has none."""
    resolver, paths, problems = PathResolver(root), {}, {}
    for name in dict.fromkeys(names):
        try:
            paths[name] = resolver(name, "")
        except LaryPolicyError as error:
            problems[name] = str(error)
    return paths, problems


class _Notes:
    """Finished clips of a run with some settings, one JSON line each: an interrupted run can go on."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self._settings = path, dict(settings)

    def read(self, files: Mapping[str, Path]) -> dict[str, ClipIndices]:
        """Return what an interrupted run with the same settings finished; notes of others are replaced.

        A line cut off by the interruption is not JSON; its clip and those whose file changed are done again.
        """
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else ""
        values = [value for value in map(_from_json, text.splitlines()) if isinstance(value, dict)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not values or values[0] != self._settings:
            self.path.write_text(json.dumps(self._settings) + "\n", encoding="utf-8")
            return {}
        found = {}
        for value in values[1:]:
            try:
                if value.pop(SEAL) != json_sha256(value):
                    continue  # another line than was written: its clip is done again
                name = value.pop("clip")
                clip = ClipIndices(**{**value, "indices": tuple(map(int, value["indices"]))})
                file = files.get(name)
            except (KeyError, TypeError, ValueError):
                continue  # a line of another shape is no note: its clip is done again
            if file is not None and file.is_file() and file.stat().st_size == clip.size:
                found[name] = clip
        return found

    def add(self, name: str, clip: ClipIndices) -> None:
        """Note a finished clip."""
        with self.path.open("a", encoding="utf-8") as file:
            note = {"clip": name, **asdict(clip)}
            file.write("\n" + json.dumps({**note, SEAL: json_sha256(note)}))  # after what may be half a line


def _from_json(line: str) -> Any:
    try:
        return parse_json(line)
    except (ValueError, RecursionError):
        return None


def _write(
    path: Path, columns: Sequence[str], rows: Sequence[dict[str, str]], done: Mapping[str, ClipIndices]
) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys([*columns, COLUMN])), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            clip = done.get(row["video_path"])
            writer.writerow({**row, COLUMN: "" if clip is None else ",".join(map(str, clip.indices))})


def _nothing(source: Path, problems: Mapping[str, str]) -> DatasetError:
    return DatasetError(
        expected=f"at least one clip of {source} that can be read",
        got=f"{len(problems)} that cannot; for example: {next(iter(problems.values()), 'no rows')}",
        fix="Check media_dir=<folder that the paths in the CSV start from>.",
    )
