"""When the frames of a video file are shown, read from its packets without decoding, once for each file."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Codecs of which every packet shows exactly one frame, so that frames can be counted without decoding them.
# VP8 is not among them: its packets may hold frames that are never shown.
ONE_FRAME_A_PACKET = ("h264", "hevc", "av1", "vp9", "mpeg4", "mjpeg")
# Frames that the cache remembers over all files, 8 bytes each: twenty hours of video at 30 Hz.
CACHED_FRAMES = 1 << 21


@dataclass(frozen=True)
class PacketTimes:
    """Presentation times of all frames, ascending, and those of the key frames among them."""

    all: Sequence[int]
    keys: Sequence[int]


class PacketTimesCache:
    """Times of at most `frames` frames of the files used last; changed files are read anew. Thread-safe."""

    def __init__(self, frames: int = CACHED_FRAMES) -> None:
        self._frames, self._held, self._lock = frames, 0, threading.Lock()
        self._files: dict[tuple[str, int, int, int], PacketTimes | None] = {}

    def read(self, path: Path, container: Any, stream: Any) -> PacketTimes | None:
        """Return the times of an opened file, see `scan_packets`; seek before decoding from it."""
        facts = path.stat()
        key = (str(path), facts.st_ino, facts.st_size, facts.st_mtime_ns)
        with self._lock:
            if key in self._files:
                times = self._files.pop(key)
                self._files[key] = times  # the last in the order of use
                return times
        times = scan_packets(container, stream)
        with self._lock:
            self._held += 0 if key in self._files else _size(times)
            self._files[key] = times
            while self._held > self._frames and len(self._files) > 1:
                self._held -= _size(self._files.pop(next(iter(self._files))))
        return times


def scan_packets(container: Any, stream: Any) -> PacketTimes | None:
    """Read the times of all packets without decoding; None if frames cannot be counted like this."""
    if stream.codec_context.codec.canonical_name not in ONE_FRAME_A_PACKET:
        return None
    times, keys = [], []
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard or packet.is_corrupt:
            continue
        if packet.pts is None:
            return None
        times.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)
    if len(set(times)) < len(times) or not keys or min(keys) > min(times):
        return None
    return PacketTimes(array("q", sorted(times)), array("q", sorted(keys)))


def _size(times: PacketTimes | None) -> int:
    return 1 if times is None else len(times.all) + len(times.keys)
