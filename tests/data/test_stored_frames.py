"""Frames inside videos and Parquet tables: equal to a full decode, decoded together, damage kept apart."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from video_files import decode_all, moving_square, write_video

from lary_policy.errors import FrameFormatError
from lary_policy.frames import stored
from lary_policy.frames.digests import file_digest
from lary_policy.frames.frame import (
    checked_ids,
    clip_frame_id,
    decode_frame,
    decode_frames,
    frame_id,
    frame_ids,
)
from lary_policy.frames.stored import ParquetFrame, TimedFrame, VideoFrame
from lary_policy.frames.video import probe_video
from lary_policy.latents.encode import encode_windows
from lary_policy.latents.plan import FRAMES
from lary_policy.latents.store import LatentStore


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "v.mp4", moving_square(30))


@pytest.fixture
def table(tmp_path):
    images = moving_square(6, 32, 24)
    cells = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"top": cells}), path, row_group_size=4)
    return path, images


def test_frames_of_a_video_are_those_of_a_full_decode_in_the_order_asked_for(video):
    whole = decode_all(video)
    wanted = [17, 3, 17, 29]
    got = decode_frames([VideoFrame(video, i) for i in wanted])
    assert all(np.array_equal(image.numpy(), whole[i]) for image, i in zip(got, wanted, strict=True))


def test_images_of_a_table_are_read_from_the_row_groups_that_hold_them(table):
    path, images = table
    got = decode_frames([ParquetFrame(path, "top", i) for i in (5, 0, 3)])
    assert all(np.array_equal(g.numpy(), images[i]) for g, i in zip(got, (5, 0, 3), strict=True))


def test_ids_depend_on_bytes_and_place_and_agree_with_those_of_clips(video, tmp_path):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(video.read_bytes())
    assert frame_id(VideoFrame(video, 4)) == frame_id(VideoFrame(copy, 4)) != frame_id(VideoFrame(video, 5))
    assert frame_id(VideoFrame(video, 4)) == clip_frame_id(file_digest(video), 4)


def test_a_file_that_changed_has_another_digest(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving_square(5))
    before = file_digest(path)
    write_video(path, moving_square(7, seed=1))
    assert file_digest(path) != before


def test_one_bad_frame_leaves_the_others_of_its_file(video):
    good, bad = decode_frames([VideoFrame(video, 2), VideoFrame(video, 99)])
    assert torch.equal(good, decode_frame(VideoFrame(video, 2)))
    assert isinstance(bad, FrameFormatError)
    assert "99" in str(bad)


@pytest.mark.parametrize(
    "make",
    [
        lambda t: VideoFrame(t.parent / "none.mp4", 0),
        lambda t: ParquetFrame(t.parent / "none.parquet", "top", 0),
        lambda t: ParquetFrame(t, "wrist", 0),
        lambda t: ParquetFrame(t, "top", 6),
    ],
)
def test_what_is_not_there_is_a_named_error(table, make):
    with pytest.raises(FrameFormatError):
        decode_frame(make(table[0]))


def test_extraction_encodes_them_once_and_sets_bad_ones_aside(video, table, pool_encoder, tmp_path):
    frames = [
        VideoFrame(video, 1),
        ParquetFrame(table[0], "top", 2),
        VideoFrame(video, 1),
        VideoFrame(video, 99),
    ]
    store = LatentStore(tmp_path / "store", pool_encoder.fingerprint, pool_encoder.latent)
    report = encode_windows(zip(frames), FRAMES, pool_encoder, store)
    assert (report.encoded, pool_encoder.frames_seen) == (2, 2)
    assert [q.item for q in report.quarantined] == [f"{video}#99"]
    assert encode_windows(zip(frames), FRAMES, pool_encoder, store).encoded == 0


def test_ids_of_many_frames_look_at_each_file_once_and_keep_damage_apart(video, table, tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(stored, "file_digest", lambda path: looked.append(path) or file_digest(path))
    good = [VideoFrame(video, i) for i in range(9)] + [ParquetFrame(table[0], "top", i) for i in range(5)]
    good += [TimedFrame(video, time_s) for time_s in (0.0, 0.1)]
    late = TimedFrame(video, 99.0)
    assert frame_ids(good) == [frame_id(frame) for frame in good]
    assert len(looked) == 3 + len(good)  # one look for each group, then one for each frame
    found = frame_ids([good[-1], late, tmp_path / "nowhere.png", good[0]])
    assert (found[0], found[3]) == (frame_id(good[-1]), frame_id(good[0]))
    assert all(isinstance(answer, FrameFormatError) for answer in found[1:3])
    with pytest.raises(FrameFormatError, match=r"within 0\.0001 s of 99\.0000 s"):
        checked_ids([good[-1], late])


def test_one_image_in_a_hundred_thousand_rows_takes_the_memory_of_some(tmp_path):
    """The file has some kilobytes and unpacks to three gigabytes, of which nothing says so beforehand."""
    buffer, path = io.BytesIO(), tmp_path / "t.parquet"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)).save(buffer, "PNG")
    same = pa.array(np.zeros(100_000, np.int32))
    cells = pa.DictionaryArray.from_arrays(same, pa.array([buffer.getvalue()]))
    pq.write_table(
        pa.table({"top": pa.StructArray.from_arrays([cells], ["bytes"])}), path, store_schema=False
    )
    pool = pa.default_memory_pool()
    most = max(pool.max_memory(), pool.bytes_allocated() + 100_000_000)
    assert path.stat().st_size < 100_000
    assert decode_frame(ParquetFrame(path, "top", 500)).shape == (100, 100, 3)
    assert pool.max_memory() <= most


def test_a_frame_is_not_decoded_for_days(tmp_path, monkeypatch):
    """Of one key frame, a frame far behind it is refused by name; those near it are not."""
    found = {codec: write_video(tmp_path / f"v{suffix}", moving_square(40), codec=codec, gop=100)
             for codec, suffix in (("libx264", ".mp4"), ("libvpx", ".webm"))}  # fmt: skip
    height, width = moving_square(1).shape[1:3]
    monkeypatch.setattr("lary_policy.frames.video.MAX_STRETCH_PIXELS", 20 * height * width)
    for path in found.values():
        assert decode_frame(VideoFrame(path, 19)).shape == (height, width, 3)
        with pytest.raises(FrameFormatError, match=f"of {width} x {height} to decode before the wanted one"):
            decode_frame(VideoFrame(path, 35))
    assert probe_video(found["libx264"]).frames == 40  # counted, not decoded
    with pytest.raises(FrameFormatError, match="to decode"):
        probe_video(found["libvpx"])
