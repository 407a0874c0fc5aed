"""Cuts segments out of videos and reverses them, with PyAV (protocol section 1.7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from lary_policy.errors import FrameFormatError
from lary_policy.frames import opened_video
from lary_policy.paths import atomic_write

# The reference's encoder settings: x264, preset ultrafast, constant rate factor 23, no sound.
ENCODER, OPTIONS = "libx264", {"preset": "ultrafast", "crf": "23"}
_ROUNDING_S = 1e-6  # time stamps are fractions, annotations decimals
_USUAL_FPS = Fraction(30)  # where a container states no rate


@dataclass(frozen=True, slots=True)
class Segment:
    """A clip to be written.

    Attributes:
        source: Video it is cut from.
        target: File to write, an mp4.
        start_s: Where it begins.
        duration_s: How long it is; None for all that is left.
        reverse: Whether the frames come in reverse order.
    """

    source: Path
    target: Path
    start_s: float = 0.0
    duration_s: float | None = None
    reverse: bool = False


def write_segment(segment: Segment) -> int:
    """Write a clip and return its number of frames.

    Odd sizes are padded by a black row or column, as x264 needs even ones. A clip that is reversed is held in
    memory decoded.

    Raises:
        FrameFormatError: The source is missing or damaged, or has no frame in that time.
        StoreError: The disk is full or not writable.
    """
    with opened_video(segment.source) as (container, stream):
        frames = _between(container, stream, segment)
        chosen = reversed(list(frames)) if segment.reverse else frames
        with atomic_write(segment.target) as temporary:
            written = _encode(temporary, chosen, stream.average_rate or _USUAL_FPS)
            if written == 0:
                raise FrameFormatError(
                    expected=f"a complete video at {segment.source} that its annotations fit",
                    got=f"no frame from {segment.start_s} s on",
                    fix="Download it again, then start the same command: finished clips are kept.",
                )
    return written


def _between(container: Any, stream: Any, segment: Segment) -> Iterator[Any]:
    """Decode the frames of a segment; its times count from the first frame on, whatever that is stamped."""
    first_s = float((stream.start_time or 0) * stream.time_base)
    begin_s = first_s + segment.start_s - _ROUNDING_S
    if segment.start_s > 0:
        container.seek(int(begin_s / stream.time_base), stream=stream)
    for frame in container.decode(stream):
        if frame.time is None or frame.time < begin_s:
            continue
        if segment.duration_s is not None and frame.time >= begin_s + segment.duration_s:
            return
        yield frame


def _encode(path: Path, frames: Iterable[Any], rate: Fraction) -> int:
    """Encode frames at a constant rate and return their number."""
    import av

    count = 0
    with av.open(str(path), "w", format="mp4") as out:
        stream: Any = out.add_stream(ENCODER, rate=rate, options=OPTIONS)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            if count == 0:
                stream.width, stream.height = frame.width + frame.width % 2, frame.height + frame.height % 2
            even = _padded(frame, stream.width, stream.height)
            even.pts, even.time_base = count, 1 / rate
            out.mux(stream.encode(even))
            count += 1
        if count:
            out.mux(stream.encode(None))
    return count


def _padded(frame: Any, width: int, height: int) -> Any:
    """Return a frame of the given size in the encoder's format, with the old one at its top left."""
    import av
    import numpy as np

    if (frame.width, frame.height) == (width, height):
        return frame.reformat(format="yuv420p")
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[: frame.height, : frame.width] = frame.to_ndarray(format="rgb24")[:height, :width]
    return av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
