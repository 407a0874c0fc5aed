"""A frame of a video is found by its time, exactly as LeRobot's own decoder finds it, or refused as there."""

import json
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lerobot_files import write_lerobot
from video_files import moving_square, write_video

from lary_policy.data.lerobot.files import LeRobotFiles
from lary_policy.data.lerobot.frames import episode_frames
from lary_policy.data.registry import open_source
from lary_policy.errors import FrameFormatError
from lary_policy.frames.frame import decode_frame, decode_frames, frame_id
from lary_policy.frames.stored import TimedFrame

EPISODES, STEPS = 3, 9  # of 9, 10 and 11 frames


def by_lerobot(path, times):
    from lerobot.datasets.video_utils import decode_video_frames

    return decode_video_frames(path, times, 1e-4, backend="pyav", return_uint8=True).permute(0, 2, 3, 1)


def timed_video(path, times_ms):
    """Encode one frame for each time in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = 4
        for image, time_ms in zip(moving_square(len(times_ms)), times_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_lerobot(tmp_path_factory.mktemp("time") / "set", episodes=EPISODES, steps=STEPS, fps=10)


def edited(plain, folder, *, timestamps=None, shift_s=0.0):
    """Return a copy whose tables have other timestamps, and whose episodes start later in the video."""
    import shutil

    root = shutil.copytree(plain, folder)
    if timestamps is not None:
        path = next((root / "data").rglob("*.parquet"))
        table = pq.read_table(path)
        values = [timestamps(step) for step in table["frame_index"].to_pylist()]
        place = table.column_names.index("timestamp")
        pq.write_table(table.set_column(place, "timestamp", pa.array(values, pa.float32())), path)
    path = next((root / "meta" / "episodes").rglob("*.parquet"))
    table = pq.read_table(path)
    name = "videos/observation.images.top/from_timestamp"
    values = [value + shift_s for value in table[name].to_pylist()]
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(values)), path)
    return root


def same_as_lerobot(root):
    """Compare every frame of every episode; both refuse the same ones."""
    from lerobot.datasets.video_utils import FrameTimestampError

    files = LeRobotFiles.read(root)
    refused = total = 0
    for episode in episode_frames(files, ["top"]):
        for frame in episode.frames["observation.images.top"]:
            total += 1
            try:
                theirs = by_lerobot(frame.path, [frame.time_s])[0]
            except FrameTimestampError:
                with pytest.raises(FrameFormatError, match="nearest at"):
                    decode_frame(frame)
                refused += 1
                continue
            assert torch.equal(decode_frame(frame), theirs)
    return refused, total


def test_tables_at_10_hz_beside_a_video_at_30_fps(plain, tmp_path):
    """Counting frames would give another picture for every row but the first."""
    root = edited(plain, tmp_path / "set")
    video = next(root.rglob("*.mp4"))
    write_video(video, moving_square(3 * (9 + 10 + 11)), fps=30)
    info = json.loads((root / "meta" / "info.json").read_text())
    info["features"]["observation.images.top"]["info"]["video.fps"] = 30
    (root / "meta" / "info.json").write_text(json.dumps(info))
    assert same_as_lerobot(root) == (0, 30)
    row = open_source("lerobot", data_dir=root, stride=2).pairs("train").rows[1]
    assert torch.equal(decode_frame(row.src_frames[0]), by_lerobot(video, [0.2])[0])


def test_video_at_29_97_fps(plain, tmp_path):
    root = edited(plain, tmp_path / "set", timestamps=lambda step: step * 1001 / 30000)
    with av.open(str(next(root.rglob("*.mp4"))), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30000, 1001))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in moving_square(200):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    refused, total = same_as_lerobot(root)
    assert total == 30
    assert refused < total


def test_a_video_of_changing_rate(plain, tmp_path):
    rng = np.random.default_rng(0)
    times_ms = np.cumsum(rng.integers(5, 60, 12)).tolist()
    root = edited(plain, tmp_path / "set", timestamps=lambda step: times_ms[step] / 1000)
    path = next((root / "meta" / "episodes").rglob("*.parquet"))
    table = pq.read_table(path)
    name = "videos/observation.images.top/from_timestamp"
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array([0.0] * EPISODES)), path)
    timed_video(next(root.rglob("*.mp4")), times_ms)
    assert same_as_lerobot(root) == (0, 30)


@pytest.mark.parametrize(("shift_s", "refused"), [(0.00005, 0), (0.05, 30), (0.1, 1), (-0.1, 1)])
def test_offsets(plain, tmp_path, shift_s, refused):
    """Half a frame off is refused, every time; a whole one is another frame, there as here."""
    assert same_as_lerobot(edited(plain, tmp_path / "set", shift_s=shift_s)) == (refused, 30)


def test_a_time_far_into_a_long_video_is_compared_in_single_precision(tmp_path):
    """LeRobot rounds both times to float32, which is coarser than its tolerance after twenty minutes."""
    path = timed_video(tmp_path / "v.mp4", [0, 1_300_000, 1_300_033, 1_300_067])
    for time_s in (1300.0331, 1300.0329, 1300.033, 1300.06702, 1300.05):
        try:
            theirs = by_lerobot(path, [time_s])[0]
        except Exception:
            with pytest.raises(FrameFormatError):
                decode_frame(TimedFrame(path, time_s))
        else:
            assert torch.equal(decode_frame(TimedFrame(path, time_s)), theirs)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_frames_that_cannot_be_counted_by_packets_are_found_by_decoding(tmp_path, codec):
    path = write_video(tmp_path / "v.webm", moving_square(20), codec=codec, fps=10)
    times = [0.7, 0.1, 1.9, 0.7]
    ours = decode_frames([TimedFrame(path, time_s) for time_s in times])
    assert torch.equal(torch.stack(ours), torch.cat([by_lerobot(path, [time_s]) for time_s in times]))
    assert len({frame_id(TimedFrame(path, time_s)) for time_s in times}) == 3
