"""SSv2 and EgoDex clips: which are needed, where they are cut, forward and reversed, resumable."""

import csv
import os

import numpy as np
import pytest
from video_files import decode_all, moving_square, write_video

from lary_policy.data.larybench.prepare import (
    Segment,
    parse_segments,
    plan_cuts,
    prepare_clips,
    required_clips,
    write_segment,
)
from lary_policy.errors import DatasetError, FrameFormatError
from lary_policy.frames.video import probe_video

SSV2 = "0.2 - 1.0: pick\n\n1.0-1.5 place"
EGODEX = "intro\\n0.5 - 1.5 fold\\n2.0 - 2.0 nothing\\n1 - 0.5 backwards"


def write(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


@pytest.fixture
def raw(tmp_path):
    """Originals, annotations and metadata of two datasets: 2 SSv2 videos of 2 s, one EgoDex video of 3 s."""
    for name, seed in (("100020.webm", 1), ("7.webm", 2)):
        frames = moving_square(60, 64, 48, seed)
        write_video(tmp_path / "ssv2" / name, frames, codec="libvpx-vp9", gop=20)
    write_video(tmp_path / "egodex/part1/fold/1068.mp4", moving_square(90, 63, 47, 3)[:, :46, :62], gop=25)
    columns = ("video_path", "seed_output")
    ssv2 = write(tmp_path / "seed_ssv2.csv", columns, [("a/100020.webm", SSV2), ("b/7.webm", SSV2)])
    egodex = write(tmp_path / "seed_egodex.csv", columns, [("/d/unzipped/part1/fold/1068.mp4", EGODEX)])
    wanted = [
        "SSv2/0_0.mp4",
        "SSv2/0_0_rev.mp4",
        "SSv2/1_2_rev.mp4",
        "EgoDex/1068/0_1.mp4",
        "EgoDex/1068/0_1_rev.mp4",
    ]
    rows = [(name.split("/")[0], name, "pick", "1,2") for name in wanted]
    rows.append(("TACO", "TACO/1_0.mp4", "pick", "1,2"))
    metadata = write(
        tmp_path / "human_1st_metadata_train.csv", ("dataset", "video_path", "action", "sample_indices"), rows
    )
    return {
        "metadata": [metadata],
        "seeds": {"SSv2": ssv2, "EgoDex": egodex},
        "roots": {"SSv2": tmp_path / "ssv2", "EgoDex": tmp_path / "egodex"},
        "output": tmp_path / "classification",
    }


def test_segments_count_every_line_and_need_a_length():
    assert parse_segments(SSV2) == ((0, 0.2, 0.8), (2, 1.0, 0.5))
    assert parse_segments(EGODEX) == ((1, 0.5, 1.0),)
    assert parse_segments("3.5 - 4 x 9 - 12") == ((0, 3.5, 0.5),)
    assert parse_segments("") == parse_segments("no times - here") == ()


def test_only_clips_that_the_metadata_name_are_planned(raw):
    assert len(required_clips(raw["metadata"])) == 5
    assert "TACO/1_0.mp4" not in required_clips(raw["metadata"])
    cuts = {c.clip: c for c in plan_cuts(raw["seeds"]["EgoDex"], "EgoDex")}
    assert set(cuts) == {"EgoDex/1068/0_1.mp4", "EgoDex/1068/0_1_rev.mp4"}
    assert cuts["EgoDex/1068/0_1.mp4"].source == "part1/fold/1068.mp4"
    cuts = {c.clip: c for c in plan_cuts(raw["seeds"]["SSv2"], "SSv2")}
    assert cuts["SSv2/1_2_rev.mp4"].source == "7.webm"
    assert (cuts["SSv2/1_2_rev.mp4"].start_s, cuts["SSv2/1_2_rev.mp4"].duration_s) == (1.0, 0.5)


def test_clips_hold_the_frames_of_their_segment_forward_and_backward(raw):
    report = prepare_clips(**raw, workers=0)
    assert (report.required, report.made, report.kept, report.quarantined) == (5, 5, 0, ())
    source = decode_all(raw["roots"]["SSv2"] / "100020.webm")[6:30].astype(float)
    forward = decode_all(raw["output"] / "SSv2/0_0.mp4").astype(float)
    backward = decode_all(raw["output"] / "SSv2/0_0_rev.mp4").astype(float)
    assert forward.shape == backward.shape == source.shape  # 0.8 s of 30 frames a second
    for clip, expected in ((forward, source), (backward, source[::-1])):
        errors = np.abs(clip[:, None] - expected[None]).mean((2, 3, 4))
        assert (errors.argmin(1) == np.arange(24)).all()
        assert errors.diagonal().max() < 8  # of 255: lossy encoding twice
    assert probe_video(raw["output"] / "SSv2/1_2_rev.mp4").frames == 15
    egodex = probe_video(raw["output"] / "EgoDex/1068/0_1.mp4")
    assert (egodex.frames, egodex.width, egodex.height, egodex.codec, egodex.fps) == (30, 62, 46, "h264", 30)


def test_odd_sizes_are_padded_to_even_ones(tmp_path):
    source = write_video(tmp_path / "odd.avi", moving_square(20, 63, 47), codec="mjpeg")
    assert write_segment(Segment(source, tmp_path / "even.mp4")) == 20
    info = probe_video(tmp_path / "even.mp4")
    assert (info.width, info.height, info.frames) == (64, 48, 20)
    assert decode_all(tmp_path / "even.mp4")[:, -1, :-1].mean() < 12


def test_an_interrupted_run_goes_on_where_it_stopped(raw):
    prepare_clips(**raw, workers=0)
    kept = raw["output"] / "SSv2/0_0.mp4"
    stamp = kept.stat().st_mtime_ns
    (raw["output"] / "SSv2/0_0_rev.mp4").unlink()
    os.truncate(raw["output"] / "SSv2/1_2_rev.mp4", 0)
    report = prepare_clips(**raw, workers=2, timeout_s=120)
    assert (report.made, report.kept, report.quarantined) == (2, 3, ())
    assert kept.stat().st_mtime_ns == stamp
    assert probe_video(raw["output"] / "SSv2/1_2_rev.mp4").frames == 15
    assert not list(raw["output"].rglob(".*"))  # nothing half-written stays


def test_what_cannot_be_made_is_reported_with_its_reason(raw):
    (raw["roots"]["SSv2"] / "7.webm").unlink()
    egodex = raw["roots"]["EgoDex"] / "part1/fold/1068.mp4"
    egodex.write_bytes(egodex.read_bytes()[:3000])
    del raw["seeds"]["SSv2"]
    text = raw["metadata"][0].read_text() + "EgoDex,EgoDex/1068/0_9.mp4,pick,1\n"
    raw["metadata"][0].write_text(text)
    report = prepare_clips(**raw, workers=0)
    reasons = {q.item: q.reason for q in report.quarantined}
    assert set(reasons) == {f"EgoDex/1068/{n}.mp4" for n in ("0_1", "0_1_rev", "0_9")}
    assert "no annotation" in reasons["EgoDex/1068/0_9.mp4"]
    assert "InvalidData" in reasons["EgoDex/1068/0_1.mp4"]
    assert not (raw["output"] / "EgoDex").exists() or not list(raw["output"].rglob("*.mp4"))


def test_missing_folder_escaping_paths_and_times_behind_the_end(raw, tmp_path):
    roots = {"SSv2": raw["roots"]["SSv2"]}
    report = prepare_clips(**{**raw, "roots": roots}, workers=0)
    assert {q.item for q in report.quarantined} == {"EgoDex/1068/0_1.mp4", "EgoDex/1068/0_1_rev.mp4"}
    assert "egodex_root=" in report.quarantined[0].reason
    source = raw["roots"]["SSv2"] / "100020.webm"
    with pytest.raises(FrameFormatError, match=r"no frame from 9\.0 s on"):
        write_segment(Segment(source, tmp_path / "x.mp4", 9.0, 1.0))
    assert not (tmp_path / "x.mp4").exists()
    with pytest.raises(DatasetError, match="missing dataset"):
        required_clips([raw["seeds"]["SSv2"]])
    write(raw["seeds"]["EgoDex"], ("video_path", "seed_output"), [("x/unzipped/../../1068.mp4", EGODEX)])
    report = prepare_clips(**raw, workers=0)
    assert all("inside" in q.reason for q in report.quarantined)
    assert report.quarantined
