"""Frames of video files by index, decoding only what is needed."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lary_policy.errors import FrameFormatError, ShapeError

# Codecs of which every packet shows exactly one frame, so that frames can be counted without decoding them.
# VP8 is not among them: its packets may hold frames that are never shown.
ONE_FRAME_A_PACKET = ("h264", "hevc", "av1", "vp9", "mpeg4", "mjpeg", "ffv1")


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    Attributes:
        frames: Frames that are really there.
        stated: Frames that the container claims, or None where it claims none.
        width: Width in pixels.
        height: Height in pixels.
        fps: Average frame rate, or None where the container has none.
        codec: Name of the codec.
    """

    frames: int
    stated: int | None
    width: int
    height: int
    fps: float | None
    codec: str

    @property
    def lie(self) -> str:
        """What is wrong with the stated length, or "" if it is right or none is stated."""
        if self.stated is None or self.stated == self.frames:
            return ""
        return f"the container states {self.stated} frames, {self.frames} are there"


@dataclass(frozen=True)
class _Packets:
    """Presentation times of all frames, ascending, and those of the key frames among them."""

    times: tuple[int, ...]
    keys: tuple[int, ...]


def probe_video(path: Path) -> VideoInfo:
    """Count the frames of a video file, without decoding them where the codec allows it.

    Raises:
        FrameFormatError: It is missing, damaged, or holds no video.
    """
    with _opened(path) as (container, stream):
        packets = _scan(container, stream)
        if packets is not None:
            count = len(packets.times)
        else:
            container.seek(0, stream=stream, backward=True)
            count = sum(1 for _ in container.decode(stream))
        return _info(stream, count)


def check_video(path: Path) -> VideoInfo:
    """Decode every frame of a video file and report on it.

    Raises:
        FrameFormatError: It is missing, or a frame is damaged.
    """
    with _opened(path) as (container, stream):
        stream.codec_context.options = {"err_detect": "explode"}
        count = 0
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise _damaged(path, f"frame {count} is damaged")
            count += 1
        return _info(stream, count)


def read_video_frames(path: Path, indices: Sequence[int], *, clamp: bool = False) -> Tensor:
    """Decode some frames of a video file to uint8 RGB `[t h w 3]`.

    Only the stretches from the key frame before a wanted frame up to it are decoded, and only wanted frames
    are converted to RGB.

    Args:
        path: Video file.
        indices: Ascending frame numbers from 0 on.
        clamp: Take the last frame for every index behind it, as the reference does, instead of raising.

    Raises:
        FrameFormatError: The file is missing, damaged, or shorter than an index; the message says so if the
            container lied about its length.
        ShapeError: The indices are empty, negative or not ascending.
    """
    wanted = list(indices)
    if not wanted or wanted[0] < 0 or any(a >= b for a, b in itertools.pairwise(wanted)):
        raise ShapeError(expected="ascending frame numbers", got=str(wanted), fix="Sort them, each once.")
    with _opened(path) as (container, stream):
        packets = _scan(container, stream)
        container.seek(0, stream=stream, backward=True)
        images = _all_in_order(container, stream, wanted) if packets is None else None
        if packets is not None:
            images = _by_time(container, stream, packets, wanted)
        return _complete(path, stream, images or {}, wanted, clamp)


def _by_time(container: Any, stream: Any, packets: _Packets, wanted: Sequence[int]) -> dict[int, Tensor]:
    """Decode the wanted frames, seeking over stretches that no wanted frame depends on."""
    number = {time: i for i, time in enumerate(packets.times)}
    last = len(packets.times) - 1
    times = [packets.times[min(i, last)] for i in wanted]
    return dict(_stretches(container, stream, packets, times, number))


def _stretches(
    container: Any, stream: Any, packets: _Packets, times: Sequence[int], number: dict[int, int]
) -> Iterator[tuple[int, Tensor]]:
    remaining = list(dict.fromkeys(times))
    while remaining:
        start = packets.keys[max(0, bisect_right(packets.keys, remaining[0]) - 1)]
        following = bisect_right(packets.keys, remaining[0])
        container.seek(start, stream=stream, backward=True)
        end = packets.keys[following] if following < len(packets.keys) else None
        group = [t for t in remaining if end is None or t < end]
        remaining = remaining[len(group) :]
        found = set(group)
        for frame in container.decode(stream):
            if frame.pts in found:
                yield number[frame.pts], _rgb(frame)
            if frame.pts is not None and frame.pts >= group[-1]:
                break


def _all_in_order(container: Any, stream: Any, wanted: Sequence[int]) -> dict[int, Tensor]:
    """Decode from the start on and convert only what is wanted; the last frame is kept for clamping."""
    needed, images, latest = set(wanted), {}, None
    for index, frame in enumerate(container.decode(stream)):
        latest = (index, frame)
        if index in needed:
            images[index] = _rgb(frame)
        if index == wanted[-1]:
            return images
    if latest is not None:
        images[latest[0]] = _rgb(latest[1])
    return images


def _complete(
    path: Path, stream: Any, images: dict[int, Tensor], wanted: Sequence[int], clamp: bool
) -> Tensor:
    if not images:
        raise _damaged(path, "no frame that decodes")
    last = max(images)
    chosen = [min(i, last) if clamp else i for i in wanted]
    absent = [i for i in chosen if i not in images]
    if absent:
        stated = f" (the container states {stream.frames} frames)" if stream.frames > last + 1 else ""
        raise _damaged(path, f"frame {absent[0]} is not there, the last is {last}{stated}")
    return torch.stack([images[i] for i in chosen])


def _rgb(frame: Any) -> Tensor:
    return torch.from_numpy(frame.to_ndarray(format="rgb24"))


def _scan(container: Any, stream: Any) -> _Packets | None:
    """Read the times of all packets without decoding; None if frames cannot be counted like this."""
    if stream.codec_context.name.removeprefix("lib").split("-")[0] not in _DECODERS:
        return None
    times, keys = [], []
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard:
            continue
        if packet.pts is None:
            return None
        times.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)
    if len(set(times)) != len(times) or not keys or min(keys) > min(times):
        return None
    return _Packets(tuple(sorted(times)), tuple(sorted(keys)))


_DECODERS = (*ONE_FRAME_A_PACKET, "dav1d", "aom")


def _info(stream: Any, frames: int) -> VideoInfo:
    context = stream.codec_context
    rate = stream.average_rate
    return VideoInfo(
        frames=frames,
        stated=stream.frames or None,
        width=context.width,
        height=context.height,
        fps=None if rate is None else float(rate),
        codec=context.codec.canonical_name,
    )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open the first video stream of a file; every error of the decoder becomes a FrameFormatError."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise _damaged(path, "no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # files are read in parallel, not the frames of one
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        reason = (
            "no such file" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
        )
        raise _damaged(path, reason) from error


def _damaged(path: Path, reason: str) -> FrameFormatError:
    return FrameFormatError(
        expected=f"a complete video at {path}",
        got=reason,
        fix="Restore the file; rows that use it are quarantined until then.",
    )
