"""Small videos with known content, for tests."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from lary_policy.data.larybench.sample import moving_square
from lary_policy.frames import decode_frames

__all__ = ["decode_all", "moving_square", "write_video"]


def write_video(
    path: Path, frames: np.ndarray, *, codec: str = "libx264", gop: int = 12, b_frames: int = 0, fps: int = 30
) -> Path:  # fmt: skip
    """Encode frames `[t h w 3]`; the container follows from the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.time_base = Fraction(1, fps)
        stream.codec_context.thread_count = 1
        if codec == "libsvtav1":
            stream.codec_context.options = {"preset": "13"}
        if codec == "libaom-av1":
            stream.codec_context.options = {"cpu-used": "8"}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def decode_all(path: Path) -> np.ndarray:
    """Decode every frame in order, the plain way."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_clip(row):
    """Decode the frames of a row of clips to uint8 `[t h w 3]`; the first that does not decode is raised."""
    images = decode_frames(row.frames())
    for image in images:
        if isinstance(image, Exception):
            raise image
    return torch.stack(images)
