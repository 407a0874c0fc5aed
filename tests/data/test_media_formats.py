"""Formats of media are named by us, not guessed by content; sizes are limited; nothing is waited for."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from video_files import moving_square, write_video

from lary_policy.errors import FrameFormatError
from lary_policy.frames.digests import file_digest
from lary_policy.frames.frame import decode_frame, frame_id
from lary_policy.frames.video import check_video, probe_video, read_video_frames


@pytest.fixture
def outside(tmp_path):
    return write_video(tmp_path / "outside" / "secret.mp4", moving_square(8))


@pytest.mark.parametrize(
    "name", ["v.mp4", "v.mkv", "v.avi", "v.webm", "v.mov", "v.m3u8", "v.ffconcat", "v.txt", "v"]
)
def test_playlists_lead_nowhere_whatever_they_are_called(tmp_path, outside, name):
    texts = (
        f"ffconcat version 1.0\nfile '{outside}'\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{outside}\n#EXT-X-ENDLIST\n",
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 0 RTP/AVP 96\na=control:{outside}\n",
    )
    for text in texts:
        (tmp_path / name).write_text(text)
        for read in (probe_video, check_video, lambda path: read_video_frames(path, [0])):
            with pytest.raises(FrameFormatError):
                read(tmp_path / name)


@pytest.mark.parametrize("name", ["concat:a|b.mp4", "http:x.mp4", "übung (1) [x]=データ'.mp4", "%d.mp4"])
def test_names_of_files_are_names_of_files(tmp_path, outside, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(outside.read_bytes())
    from pathlib import Path

    assert len(read_video_frames(Path(name), [0, 7])) == 2


def test_a_container_with_broken_metadata_still_shows_its_frames(tmp_path, outside):
    import av

    path = tmp_path / "v.mp4"
    with av.open(str(outside)) as source, av.open(str(path), "w") as out:
        out.metadata["title"] = "XXXXXXXX"
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    data = path.read_bytes()
    assert b"XXXXXXXX" in data
    path.write_bytes(data.replace(b"XXXXXXXX", b"\xff\xfe\xfd\xfc\xc3\x28\xa0\xa1"))
    assert len(read_video_frames(path, [0, 7])) == 2


@pytest.mark.parametrize("suffix", ["png", "jpg", "eps"])
def test_postscript_starts_nothing(tmp_path, suffix):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="EPS")
    (tmp_path / f"a.{suffix}").write_bytes(buffer.getvalue())
    with pytest.raises(FrameFormatError, match="do not decode"):
        decode_frame(tmp_path / f"a.{suffix}")


def test_a_small_file_of_a_huge_picture_is_refused_before_it_unpacks(tmp_path):
    """178 million pixels in 200 kB: Pillow's own limit is twice its warning, and that is 180 million."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = 13_350
    rows = zlib.compress(bytes((side // 8 + 2) * side), 9)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    with pytest.raises(FrameFormatError, match="of at most"):
        decode_frame(path)


@pytest.mark.parametrize("name", ["a.png", "a.mp4"])
def test_pipes_devices_and_folders_are_refused_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    for path in (tmp_path / name, tmp_path / "folder.mp4", tmp_path / "zero.mp4"):
        for read in (decode_frame, frame_id, file_digest, probe_video, lambda p: read_video_frames(p, [0])):
            with pytest.raises(FrameFormatError):
                read(path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_pictures_of_8_bits_are_read_whatever_their_colours(tmp_path, mode):
    ramp = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    ramp.convert(mode).save(tmp_path / "a.tiff")
    assert decode_frame(tmp_path / "a.tiff").shape == (8, 8, 3)
