"""Complete checks of single files; they run in processes of their own, so all is picklable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lary_policy.data.actions import read_chunk
from lary_policy.data.frames import decode_frame, frame_id
from lary_policy.data.video import check_video
from lary_policy.errors import FrameFormatError

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
