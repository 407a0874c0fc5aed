"""Frames by seeking equal those of a full decode, for every codec the datasets come in."""

import av
import numpy as np
import pytest
from video_files import decode_all, moving_square, write_video

from lary_policy.errors import FrameFormatError, ShapeError
from lary_policy.frames import VideoFrame, decode_frames
from lary_policy.frames.video import check_video, probe_video, read_video_frames

# codec, container, frames between key frames, B frames
KINDS = [
    ("libx264", "mp4", 12, 0), ("libx264", "mp4", 12, 3), ("libx264", "mp4", 250, 3),
    ("libx264", "mp4", 2, 3),
    ("libx264", "mkv", 12, 2), ("mpeg4", "mp4", 12, 0), ("mpeg4", "avi", 12, 2), ("libvpx", "webm", 12, 0),
    ("libvpx-vp9", "webm", 12, 0), ("libsvtav1", "mp4", 12, 0), ("libx265", "mp4", 12, 3),
    ("mjpeg", "avi", 1, 0),
]  # fmt: skip
FRAMES = 45


@pytest.fixture(scope="module", params=KINDS, ids=lambda k: "-".join(map(str, k)))
def video(request, tmp_path_factory):
    codec, suffix, gop, b_frames = request.param
    path = tmp_path_factory.mktemp("videos") / f"v.{suffix}"
    return write_video(path, moving_square(FRAMES), codec=codec, gop=gop, b_frames=b_frames)


@pytest.mark.parametrize(
    "indices", [[0], [44], [3, 7, 11, 16, 22, 26, 29, 34, 38], list(range(45)), [13, 14]]
)
def test_frames_equal_a_full_decode(video, indices):
    whole = decode_all(video)
    assert len(whole) == FRAMES
    np.testing.assert_array_equal(read_video_frames(video, indices).numpy(), whole[indices])


def test_length_is_counted(video):
    info = probe_video(video)
    assert (info.frames, info.width, info.height, info.lie) == (FRAMES, 64, 48, "")
    assert check_video(video) == info


def test_frames_behind_the_end_are_an_error_or_the_last_frame(video):
    with pytest.raises(FrameFormatError, match="frame 45 is not there, the last is 44"):
        read_video_frames(video, [3, 45, 60])
    clamped = read_video_frames(video, [3, 45, 60], clamp=True).numpy()
    np.testing.assert_array_equal(clamped, decode_all(video)[[3, 44, 44]])


@pytest.mark.parametrize("indices", [[], [-1, 2], [3, 3], [4, 2]])
def test_bad_indices_are_a_shape_error(tmp_path, indices):
    with pytest.raises(ShapeError, match="ascending"):
        read_video_frames(tmp_path / "x.mp4", indices)


def test_missing_truncated_and_foreign_files_are_named(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving_square(30))
    whole = path.read_bytes()
    with pytest.raises(FrameFormatError, match="no such file"):
        read_video_frames(tmp_path / "none.mp4", [0])
    for name, content in (("cut", whole[: len(whole) // 2]), ("empty", b""), ("text", b"no video" * 99)):
        bad = tmp_path / f"{name}.mp4"
        bad.write_bytes(content)
        for read in (probe_video, check_video, lambda p: read_video_frames(p, [1])):
            with pytest.raises(FrameFormatError, match=name):
                read(bad)


def test_a_container_that_lies_about_its_length_is_named(tmp_path):
    """The Matroska header is written before the frames, and mp4's index may be in front: cut the tail off."""
    import av

    whole = write_video(tmp_path / "v.mp4", moving_square(40))
    fast = tmp_path / "fast.mp4"
    with av.open(str(whole)) as source, av.open(str(fast), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    data = fast.read_bytes()
    fast.write_bytes(data[: int(len(data) * 0.7)])
    info = probe_video(fast)
    assert info.stated == 40
    assert info.frames < 40
    assert info.lie == f"the container states 40 frames, {info.frames} are there"
    with pytest.raises(FrameFormatError, match="states 40 frames"):
        read_video_frames(fast, [2, 39])


def test_a_flipped_byte_in_the_stream_is_found(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving_square(40, 96, 96), gop=40)
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + 2000
    for i in range(middle, middle + 200):
        data[i] ^= 0x5A
    path.write_bytes(data)
    with pytest.raises(FrameFormatError):
        check_video(path)


def test_d30_only_the_stretch_before_a_wanted_frame_is_decoded(tmp_path, monkeypatch):
    """Defect D30: the reference decodes whole clips to RGB to keep nine frames."""
    import av

    path = write_video(tmp_path / "v.mp4", moving_square(150), gop=10)
    counts = {"decoded": 0, "converted": 0}
    decode, convert = av.Packet.decode, av.VideoFrame.to_ndarray

    class Counted:
        """PyAV's classes cannot be patched; the packets that a stream yields can be wrapped."""

        def __init__(self, packet):
            self._packet = packet

        def __getattr__(self, name):
            return getattr(self._packet, name)

        def decode(self):
            frames = decode(self._packet)
            counts["decoded"] += len(frames)
            return frames

    import lary_policy.frames.video as module

    stretch = module._stretch

    class Container:
        def __init__(self, container):
            self._container = container

        def demux(self, stream):
            return (Counted(packet) for packet in self._container.demux(stream))

    def rgb(frame):
        counts["converted"] += 1
        return module.torch.from_numpy(convert(frame, format="rgb24"))

    monkeypatch.setattr(module, "_stretch", lambda c, s, t: stretch(Container(c), s, t))
    monkeypatch.setattr(module, "_rgb", rgb)
    frames = read_video_frames(path, [22, 71, 122])
    np.testing.assert_array_equal(frames.numpy(), decode_all(path)[[22, 71, 122]])
    assert counts["converted"] == 3
    assert counts["decoded"] <= 3 * 5


def test_frames_that_change_their_size_are_a_named_error(tmp_path):
    parts = [write_video(tmp_path / f"{px}.mkv", moving_square(6, px, px), codec="mjpeg") for px in (64, 32)]
    path = tmp_path / "both.mkv"
    with av.open(str(path), "w") as out:
        stream, shown = None, 0
        for part in parts:
            with av.open(str(part)) as container:
                stream = stream or out.add_stream_from_template(container.streams.video[0])
                for packet in container.demux(video=0):
                    if packet.dts is not None:
                        packet.stream, packet.pts, packet.dts = stream, shown, shown
                        shown += 33
                        out.mux(packet)
    assert read_video_frames(path, [0, 5]).shape == (2, 64, 64, 3)
    with pytest.raises(FrameFormatError, match="its frames change their size: 64 x 64, 32 x 32"):
        read_video_frames(path, [0, 11])
    assert decode_frames([VideoFrame(path, 0), VideoFrame(path, 11)])[0].shape == (64, 64, 3)
