"""A video file's packets are read once, until the file changes or others push it out."""

import os

import numpy as np
import pytest
from video_files import decode_all, moving_square, write_video

from lary_policy.frames import packets as packet_times
from lary_policy.frames import video
from lary_policy.frames.packets import PacketTimesCache


@pytest.fixture
def scans(monkeypatch):
    """Count files that are scanned; reads go through a cache of at most 70 frames."""
    seen, scan = [], packet_times.scan_packets
    monkeypatch.setattr(packet_times, "scan_packets", lambda c, s: seen.append(c.name) or scan(c, s))
    monkeypatch.setattr(video, "_TIMES", PacketTimesCache(70))
    return seen


def test_a_file_is_scanned_once_and_again_after_it_changed(scans, tmp_path):
    path = write_video(tmp_path / "v.mp4", moving_square(30), b_frames=2)
    whole = decode_all(path)
    for indices in ([3, 9], [29], [0, 14]):
        np.testing.assert_array_equal(video.read_video_frames(path, indices).numpy(), whole[indices])
    assert video.probe_video(path).frames == 30
    assert len(scans) == 1
    write_video(path, moving_square(20, seed=1))
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(video.read_video_frames(path, [19]).numpy(), decode_all(path)[[19]])
    assert len(scans) == 2


def test_the_files_used_last_are_remembered(scans, tmp_path):
    paths = [write_video(tmp_path / f"{i}.mp4", moving_square(30)) for i in range(3)]  # 30 frames and 3 keys
    for number in (0, 1, 0, 2, 0, 1):
        video.read_video_frames(paths[number], [5])
    assert [int(name.rpartition("/")[2][0]) for name in scans] == [0, 1, 2, 1]


def test_codecs_that_cannot_be_counted_are_remembered_too(scans, tmp_path):
    path = write_video(tmp_path / "v.webm", moving_square(12), codec="libvpx")
    for _ in range(2):
        assert video.read_video_frames(path, [3]).shape == (1, 48, 64, 3)
    assert len(scans) == 1
