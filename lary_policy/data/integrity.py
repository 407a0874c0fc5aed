"""Complete checks of files and of whole folders: what a check found, and checksums of what we wrote."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lary_policy.data.arrays import read_chunk, read_numbers
from lary_policy.data.parallel import Failure, for_each
from lary_policy.errors import DatasetError, FrameFormatError, LaryPolicyError
from lary_policy.frames import check_video, decode_frame, file_digest
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
    root: Path, name: str = CHECKSUMS_FILE, *, workers: int = 2, timeout_s: float = DEFAULT_TIMEOUT_S
) -> Iterator[Quarantined]:
    """Read every file below a folder and yield those that are not what `write_checksums` saw.

    Args:
        root: The folder.
        name: Path of the file with the checksums below it.
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
    for path in sorted(present - {name} - set(stated)):
        yield Quarantined(path, "it was not written with the others", "checksums")
