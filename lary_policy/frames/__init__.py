"""A frame is a file, a frame of a video or a row of a table; how it is decoded."""

from __future__ import annotations

from lary_policy.frames.digests import file_digest, remember_digests
from lary_policy.frames.frame import (
    Frame,
    clip_frame_id,
    clip_id,
    decode_frame,
    decode_frames,
    decode_image,
    frame_id,
    pair_id,
)
from lary_policy.frames.stored import ParquetFrame, TimedFrame, VideoFrame
from lary_policy.frames.video import (
    TOLERANCE_S,
    check_video,
    frame_numbers,
    iterate_frames,
    opened_video,
    probe_video,
    read_video_frames,
)

__all__ = [
    "TOLERANCE_S",
    "Frame",
    "ParquetFrame",
    "TimedFrame",
    "VideoFrame",
    "check_video",
    "clip_frame_id",
    "clip_id",
    "decode_frame",
    "decode_frames",
    "decode_image",
    "file_digest",
    "frame_id",
    "frame_numbers",
    "iterate_frames",
    "opened_video",
    "pair_id",
    "probe_video",
    "read_video_frames",
    "remember_digests",
]
