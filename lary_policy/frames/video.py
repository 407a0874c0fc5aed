"""Frames of video files by index, decoding only what is needed."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lary_policy.errors import FrameFormatError, ShapeError
from lary_policy.frames.frame import FIX, MAX_PIXELS
from lary_policy.frames.packets import PacketTimes, PacketTimesCache
from lary_policy.paths import foreign_file, open_regular

_TIMES = PacketTimesCache()
# The demuxer of each suffix. Playlists (m3u8, ffconcat, sdp, ...) are none: they name further files.
CONTAINERS = {
    **dict.fromkeys((".mp4", ".m4v", ".mov"), "mov"),
    **dict.fromkeys((".mkv", ".webm"), "matroska"),
    **dict.fromkeys((".mpg", ".mpeg"), "mpeg"),
    ".avi": "avi",
    ".ts": "mpegts",
    ".flv": "flv",
    ".ogv": "ogg",
}
# Decoded at most for one frame: an hour of 1280 x 720 at 30 Hz between two key frames, minutes of one core.
# A file of some megabytes may hold frames for days.
MAX_STRETCH_PIXELS = 1 << 37
TIMEOUT_S = 60.0  # for opening a file, and for each read; a network disk may need some for its first byte
# How far a frame may be from the time that a table states; LeRobot's own default.
TOLERANCE_S = 1e-4


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds."""

    frames: int  # frames that are really there
    stated: int | None  # frames that the container claims, or None where it claims none
    width: int  # width in pixels
    height: int  # height in pixels
    fps: float | None  # average frame rate, or None where the container has none
    duration_s: float | None  # length in seconds that the container claims, or None
    codec: str  # name of the codec

    @property
    def claimed(self) -> int:
        """Frames that the container claims: stated, or duration times rate as OpenCV has it; 0 if unknown."""
        if self.stated is not None:
            return self.stated
        return int((self.duration_s or 0.0) * (self.fps or 0.0) + 0.5)

    @property
    def lie(self) -> str:
        """What is wrong with the stated length, or "" if it is right or none is stated."""
        if self.stated is None or self.stated == self.frames:
            return ""
        return f"the container states {self.stated} frames, {self.frames} are there"


def probe_video(path: Path) -> VideoInfo:
    """Count the frames of a video file, without decoding them where the codec allows it.

    Raises:
        FrameFormatError: It is missing, damaged, or holds no video.
    """
    with opened_video(path) as (container, stream):
        times = _TIMES.read(path, container, stream)
        if times is not None:
            return _info(container, stream, len(times.all))
        container.seek(0, stream=stream)
        return _info(container, stream, sum(1 for _ in _decoded(container, stream)))


def check_video(path: Path) -> VideoInfo:
    """Decode every frame of a video file and report on it.

    Raises:
        FrameFormatError: It is missing, holds no frame, or a frame is damaged.
    """
    with opened_video(path) as (container, stream):
        stream.codec_context.options = {"err_detect": "explode"}
        count = 0
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise _damaged(path, f"frame {count} is damaged")
            count += 1
        if count == 0:
            raise _damaged(path, "no frame that decodes")
        return _info(container, stream, count)


def read_video_frames(path: Path, indices: Sequence[int], *, clamp: bool = False) -> Tensor:
    """Decode some frames of a video file to uint8 RGB `[t h w 3]`.

    Only the stretches from the key frame before a wanted frame up to it are decoded, frames that no other
    depends on are left out, and only wanted frames are converted to RGB. Where its frames are is read from a
    file once (`PacketTimesCache`); calls after the first seek at once.

    Args:
        path: Video file.
        indices: Ascending frame numbers from 0 on.
        clamp: Take the last frame for every index behind it, as the reference does, instead of raising.

    Raises:
        FrameFormatError: The file is missing, damaged, or shorter than an index; the message says so if the
            container lied about its length.
        ShapeError: There is no index, or they are negative or not ascending.
    """
    wanted = list(indices)
    if not wanted or wanted[0] < 0 or any(a >= b for a, b in itertools.pairwise(wanted)):
        raise ShapeError(expected="ascending frame numbers", got=str(wanted), fix="Sort them, each once.")
    with opened_video(path) as (container, stream):
        times = _TIMES.read(path, container, stream)
        images = {} if times is None else _seek_and_decode(container, stream, times, wanted, clamp)
        stated = stream.frames
    if not images:
        with opened_video(path) as (container, stream):
            images = _decode_in_order(container, stream, wanted)
    return _collect(path, stated, images, wanted, clamp)


def frame_numbers(path: Path, times_s: Sequence[float]) -> list[int]:
    """Return the numbers of the frames that are shown at some times, as LeRobot finds them.

    Times are seconds on the file's own clock, compared in float32: of the frame nearest to each, if it is
    near enough.

    Raises:
        FrameFormatError: The file is missing or damaged, or no frame is within `TOLERANCE_S` of a time.
    """
    shown = _shown_at(path)
    wanted = np.asarray(times_s, dtype=np.float32)
    after = np.clip(np.searchsorted(shown, wanted), 0, len(shown) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(np.abs(shown[before] - wanted) <= np.abs(shown[after] - wanted), before, after)
    distance = np.abs(shown[nearest] - wanted)
    far = np.flatnonzero(~(distance < np.float32(TOLERANCE_S)))
    if len(far):
        time_s, found_s = float(wanted[far[0]]), float(shown[nearest[far[0]]])
        raise FrameFormatError(
            expected=f"a frame within {TOLERANCE_S} s of {time_s:.4f} s in {path}",
            got=f"the nearest at {found_s:.4f} s",
            fix="The table has other timestamps than the video; LeRobot refuses such datasets, too: write it "
            "anew.",
        )
    return [int(number) for number in nearest]


def _shown_at(path: Path) -> NDArray[np.float32]:
    """Return when each frame of a file is shown, in seconds, ascending."""
    try:
        facts = path.stat()
    except OSError as error:
        raise _damaged(path, error.strerror or "no such file") from error
    return _shown_in(path, facts.st_size, facts.st_mtime_ns, facts.st_ino)


@lru_cache(maxsize=64)
def _shown_in(path: Path, *_state: int) -> NDArray[np.float32]:
    with opened_video(path) as (container, stream):
        times = _TIMES.read(path, container, stream)
        if times is None:
            container.seek(0, stream=stream)
            ticks = [frame.pts for frame in _decoded(container, stream) if frame.pts is not None]
        else:
            ticks = list(times.all)
        base = stream.time_base
    if not ticks:
        raise _damaged(path, "no frame that decodes")
    return (np.array(ticks, np.float64) * base.numerator / base.denominator).astype(np.float32)


def iterate_frames(path: Path, pixel_format: str = "rgb24") -> Iterator[Tensor]:
    """Decode all frames of a video file in order, uint8 `[h w 3]`, or `[h w]` for the format `gray`.

    Raises:
        FrameFormatError: The file is missing or damaged.
    """
    with opened_video(path) as (container, stream):
        for frame in container.decode(stream):
            yield torch.from_numpy(frame.to_ndarray(format=pixel_format))


def _seek_and_decode(
    container: Any, stream: Any, times: PacketTimes, wanted: Sequence[int], clamp: bool
) -> dict[int, Tensor]:
    """Decode the wanted frames stretch by stretch; nothing if seeking does not lead to all of them."""
    last = len(times.all) - 1
    numbers = dict.fromkeys(min(i, last) if clamp else i for i in wanted)
    if max(numbers) > last:
        numbers = {i: None for i in numbers if i <= last} | {last: None}  # the caller says what is not there
    waiting = {times.all[i]: i for i in sorted(numbers)}
    images: dict[int, Tensor] = {}
    while waiting:
        first = next(iter(waiting))
        key = bisect_right(times.keys, first)
        end = times.keys[key] if key < len(times.keys) else None
        group = {t: i for t, i in waiting.items() if end is None or t < end}
        start = times.keys[max(0, key - 1)]
        _check_stretch(stream, max(group.values()) - bisect_left(times.all, start))
        container.seek(start, stream=stream)
        found = {group[t]: image for t, image in _stretch(container, stream, group)}
        if len(found) < len(group):
            return {}
        images |= found
        waiting = {t: i for t, i in waiting.items() if t not in group}
    return images


def _stretch(container: Any, stream: Any, times: dict[int, int]) -> Iterator[tuple[int, Tensor]]:
    """Decode from the current position on until the frames of all wanted times came out."""
    context, absent, skipped = stream.codec_context, set(times), ""
    for packet in container.demux(stream):
        skip = "DEFAULT" if packet.pts in times else "NONREF"
        if skip != skipped:  # setting it takes as long as reading a packet
            context.skip_frame = skipped = skip
        for frame in packet.decode():
            if frame.pts in absent:
                absent.discard(frame.pts)
                yield frame.pts, _rgb(frame)
        if not absent:
            break


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the frames from the current position on, as many as one may take."""
    for number, frame in enumerate(container.decode(stream)):
        _check_stretch(stream, number)
        yield frame


def _check_stretch(stream: Any, frames: int) -> None:
    """Raise ValueError if so many frames are more than may be decoded for one."""
    width, height = stream.codec_context.width, stream.codec_context.height
    if frames * width * height > MAX_STRETCH_PIXELS:
        raise ValueError(f"{frames} frames of {width} x {height} to decode before the wanted one")


def _decode_in_order(container: Any, stream: Any, wanted: Sequence[int]) -> dict[int, Tensor]:
    """Decode from the start on and convert only what is wanted; the last frame is kept for clamping."""
    needed = set(wanted)
    images: dict[int, Tensor] = {}
    latest: tuple[int, Any] | None = None
    for index, frame in enumerate(_decoded(container, stream)):
        latest = (index, frame)
        if index in needed:
            images[index] = _rgb(frame)
        if index == wanted[-1]:
            return images
    if latest is not None:
        images[latest[0]] = _rgb(latest[1])
    return images


def _collect(
    path: Path, stated: int, images: dict[int, Tensor], wanted: Sequence[int], clamp: bool
) -> Tensor:
    if not images:
        raise _damaged(path, "no frame that decodes")
    last = max(images)
    chosen = [min(i, last) if clamp else i for i in wanted]
    absent = [i for i in chosen if i not in images]
    if absent:
        lie = f" (the container states {stated} frames)" if stated > last + 1 else ""
        raise _damaged(path, f"frame {absent[0]} is not there, the last is {last}{lie}")
    sizes = list(dict.fromkeys(f"{w} x {h}" for h, w in (images[i].shape[:2] for i in chosen)))
    if len(sizes) > 1:
        raise _damaged(path, f"its frames change their size: {', '.join(sizes)}")
    return torch.stack([images[i] for i in chosen])


def _rgb(frame: Any) -> Tensor:
    return torch.from_numpy(frame.to_ndarray(format="rgb24"))


def _info(container: Any, stream: Any, frames: int) -> VideoInfo:
    context = stream.codec_context
    rate = stream.average_rate
    microseconds = container.duration
    return VideoInfo(
        frames=frames,
        stated=stream.frames or None,
        width=context.width,
        height=context.height,
        fps=None if rate is None else float(rate),
        duration_s=None if microseconds is None else microseconds / 1e6,
        codec=context.codec.canonical_name,
    )


@contextmanager
def opened_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open the first video stream of a file and yield container and stream.

    The container is the one that the file's suffix names, whatever its content looks like: a playlist that is
    called `.mp4` would lead to other files. Nothing but this file is opened.

    Raises:
        FrameFormatError: The file is missing, damaged, of another format, larger than any robot's camera, or
            a depth map; every error of the decoder becomes this one.
    """
    import av

    with foreign_file("a complete video", path, FIX, error=FrameFormatError):
        container_format = CONTAINERS.get(path.suffix.lower())
        if container_format is None:
            raise _damaged(path, f"a file of another kind than {', '.join(CONTAINERS)}")
        with open_regular(path):  # a pipe would be waited for
            pass
        with av.open(
            f"file:{path.absolute()}",
            format=container_format,
            options={"protocol_whitelist": "file"},
            metadata_errors="replace",
            timeout=TIMEOUT_S,
        ) as container:
            if not container.streams.video:
                raise _damaged(path, "no video stream")
            stream = container.streams.video[0]
            _check_picture(path, stream.codec_context)
            stream.codec_context.thread_count = 1  # files are read in parallel, not the frames of one
            yield container, stream


def _check_picture(path: Path, context: Any) -> None:
    if context.width * context.height > MAX_PIXELS:
        raise _damaged(path, f"frames of {context.width} x {context.height}, of at most {MAX_PIXELS} pixels")
    pixels = context.format
    if pixels is not None and pixels.name.startswith("gray") and pixels.components[0].bits > 8:
        raise _damaged(path, f"a depth map ({pixels.name}), no colour video")


def _damaged(path: Path, reason: str) -> FrameFormatError:
    return FrameFormatError(expected=f"a complete video at {path}", got=reason, fix=FIX)
