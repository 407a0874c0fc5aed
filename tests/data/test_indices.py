"""`sample_indices` of whole CSVs: methods, resumption, bad clips."""

import csv
import json

import numpy as np
import pytest
from larybench_files import read_csv
from video_files import moving_square, read_clip, write_video

from lary_policy.data.larybench.indices import write_indices
from lary_policy.data.registry import open_source
from lary_policy.errors import DatasetError

COLUMNS = ("dataset", "video_path", "action")


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


@pytest.fixture
def clips(tmp_path):
    """Six rows: a moving clip twice, a short one, a static one, a missing and a damaged one."""
    media = tmp_path / "classification"
    write_video(media / "TACO/1_0.mp4", moving_square(40))
    write_video(media / "TACO/2_0.mp4", moving_square(12))
    write_video(media / "TACO/3_0.mp4", np.full((30, 48, 64, 3), 90, np.uint8))
    write_video(media / "TACO/5_0.mp4", moving_square(40)).write_bytes(b"no video")
    names = ["TACO/1_0.mp4", "TACO/2_0.mp4", "TACO/3_0.mp4", "TACO/4_0.mp4", "TACO/5_0.mp4", "TACO/1_0.mp4"]
    path = tmp_path / "human_1st_metadata_train.csv"
    write(path, [("TACO", name, "pick") for name in names])
    return path, media, tmp_path / "out" / path.name


def test_every_row_stays_and_every_clip_says_how_it_was_sampled(clips):
    report = write_indices(*clips, workers=0)
    rows = read_csv(report.path)
    assert report.rows == len(rows) == 6
    assert tuple(rows[0]) == (*COLUMNS, "sample_indices")
    assert rows[0] == rows[5]
    assert report.methods == {"motion": 1, "uniform_short": 1, "uniform_static": 1}
    assert rows[1]["sample_indices"] == "0,1,2,4,5,6,8,9,10"
    assert rows[2]["sample_indices"] == "0,3,6,10,13,16,20,23,26"
    assert [rows[i]["sample_indices"] for i in (3, 4)] == ["", ""]
    reasons = {q.item: q.reason for q in report.quarantined}
    assert set(reasons) == {"TACO/4_0.mp4", "TACO/5_0.mp4"}
    assert "no such file" in reasons["TACO/4_0.mp4"]
    assert not list(report.path.parent.glob("*.partial"))


def test_the_reader_takes_what_was_written_and_quarantines_the_rest(clips):
    path, media, _ = clips
    write_indices(path, media, media.parent / "data" / path.name, workers=0)
    table = open_source(
        "human_1st", data_dir=media.parent, protocol="lary", csv_dir=media.parent / "data"
    ).clips("train")
    assert (len(table), len(table.quarantined)) == (4, 2)
    assert read_clip(table.rows[0]).shape == (9, 48, 64, 3)


def test_lary_lets_a_static_clip_collapse(clips):
    report = write_indices(*clips, workers=0, protocol="lary")
    assert report.methods == {"motion": 2, "uniform_short": 1}
    assert read_csv(report.path)[2]["sample_indices"] == ",".join(["1"] * 9)


def test_an_interrupted_run_goes_on_where_it_stopped(clips):
    path, media, output = clips

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_indices(path, media, output, workers=0, on_progress=stop)
    notes = output.with_name(f"{output.name}.partial")
    assert len(notes.read_text().split()) > 3
    notes.write_text(notes.read_text() + '{"clip": "TACO/3_0.mp4", "indi')
    (media / "TACO/2_0.mp4").unlink()
    write_video(media / "TACO/2_0.mp4", moving_square(15))
    report = write_indices(path, media, output, workers=1, timeout_s=60)
    assert report.reused == 1  # 2_0 changed, and the line of 3_0 was cut off
    fresh = write_indices(path, media, output.with_name("fresh.csv"), workers=0)
    assert read_csv(report.path) == read_csv(fresh.path)


def test_notes_of_other_settings_are_not_used(clips):
    path, media, output = clips
    output.parent.mkdir()
    notes = output.with_name(f"{output.name}.partial")
    notes.write_text(json.dumps({"num_frames": 4, "protocol": "native"}) + "\n")
    assert write_indices(path, media, output, workers=0).reused == 0


def test_nothing_usable_and_missing_columns_are_errors(clips, tmp_path):
    path, _, output = clips
    with pytest.raises(DatasetError, match="media_dir="):
        write_indices(path, tmp_path, output, workers=0)
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DatasetError, match="missing video_path"):
        write_indices(tmp_path / "x.csv", tmp_path, output)


def test_d21_no_environment_variable_is_needed_and_the_output_name_is_the_callers(clips, monkeypatch):
    """Defect D21: the reference needs an undocumented variable and writes a fixed name."""
    monkeypatch.delenv("LATENT_ACTION_BENCH_DIR", raising=False)
    path, media, output = clips
    report = write_indices(path, media, output.with_name("mine.csv"), workers=0)
    assert report.path.name == "mine.csv"
