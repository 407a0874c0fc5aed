"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lary_policy.data.arrays import read_chunk
from lary_policy.errors import FrameFormatError
from lary_policy.frames import check_video, decode_frame, frame_id
from lary_policy.types import Quarantined


@dataclass(frozen=True)
class IntegrityReport:
    """Result of a check.

    Attributes:
        root: What was checked.
        checked: How many of each kind of thing were looked at.
        problems: Everything that is wrong; empty when all is well.
    """

    root: Path
    checked: dict[str, int]
    problems: tuple[Quarantined, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


DEFAULT_TIMEOUT_S = 30.0  # a 20 s clip decodes in 1 s; a network disk may need longer for its first byte
MediaKind = Literal["image", "action", "clip"]


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
    return frame_id(file.path)


def _action(file: MediaFile) -> str:
    steps, dim = file.needs
    read_chunk(file.path, steps, dim)
    return frame_id(file.path)


def _clip(file: MediaFile) -> str:
    info = check_video(file.path)
    (last,) = file.needs
    if info.lie or last >= info.frames:
        raise FrameFormatError(
            expected=f"a clip as long as its container says, with a frame {last}, at {file.path}",
            got=info.lie or f"{info.frames} frames",
            fix="Restore the file, or run `lary data indices` again.",
        )
    return frame_id(file.path)


_CHECKS = {"image": _image, "action": _action, "clip": _clip}
