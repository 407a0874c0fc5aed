"""Each kind of damage to the benchmark's files is found, and named."""

import os

import numpy as np
import pytest
from larybench_files import (
    make_agibotbeta,
    make_calvin,
    make_clips,
    make_libero,
    make_robocoin,
    make_vlabench,
    read_csv,
    write_csv,
)  # fmt: skip
from video_files import moving_square, write_video

from lary_policy.data.registry import open_source
from lary_policy.data.verify import verify_source


def check(root, key="calvin", protocol="lary", **options):
    return verify_source(open_source(key, data_dir=root, protocol=protocol), workers=0, **options)


def kinds(report):
    return [p.where for p in report.problems]


@pytest.fixture
def calvin(tmp_path):
    make_calvin(tmp_path)
    return tmp_path


def rows_of(root, name="calvin_metadata_train.csv"):
    return read_csv(root / "data" / name)


def change(root, line, column, value, name="calvin_metadata_train.csv"):
    rows = rows_of(root, name)
    rows[line][column] = value
    write_csv(root, name, rows[0], rows)


def path(root, column, line=2):
    return root / "regression/calvin/train_stride5" / rows_of(root)[line][column]


def test_sound_files_have_no_problems(calvin):
    report = check(calvin)
    assert report.problems == ()
    assert report.checked == {"csv": 2, "rows": 36, "images": 45, "actions": 36}


def test_d25_a_truncated_image_is_found_although_its_header_is_sound(calvin):
    """Defect D25: the reference's check of the header passes it, actions are not opened at all."""
    from PIL import Image

    image = path(calvin, "src_img")
    os.truncate(image, image.stat().st_size - 30)
    with Image.open(image) as header:
        header.size  # noqa: B018
    report = check(calvin)
    assert kinds(report) == ["images"]
    assert report.problems[0].item == str(image)
    assert "named by 2 rows, the first calvin_metadata_train.csv:3" in report.problems[0].reason


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((5, 7), np.nan), "NaN"), (np.zeros((5, 6)), r"30 \(shape"), (np.zeros(36), "36"),
        (np.array(["a"] * 35), "dtype"),
    ],
)  # fmt: skip
def test_actions_are_opened_and_must_be_finite_and_right_sized(calvin, values, reason):
    np.save(path(calvin, "action"), values)
    report = check(calvin)
    assert kinds(report) == ["actions"]
    assert np.char.find(report.problems[0].reason, reason.replace("\\", "")) >= 0


def test_missing_files_are_found_once_with_the_number_of_rows(calvin):
    path(calvin, "src_img").unlink()
    path(calvin, "action").unlink()
    assert sorted(kinds(check(calvin))) == ["actions", "images"]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("action", "", "empty cell"),
        ("src_img", "images/../../../x.png", "inside"),
        ("tgt_img", "images/ep_1/frame_000090.png", "frames 5 steps apart"),
        ("action", "actions/ep_1/action_000065to000070.npy", "frames 5 steps apart"),
        ("action", "actions/ep_2/action_000075to000079.npy", "frames and action of one episode"),
        ("src_img", "images/epframe_000075.png", "without the episode's folder"),
    ],
)
def test_rows_that_contradict_themselves_are_found(calvin, column, value, reason):
    change(calvin, 2, column, value)
    report = check(calvin)
    assert kinds(report) == ["rows"]
    assert report.problems[0].item == "calvin_metadata_train.csv:4"
    assert reason in report.problems[0].reason


def test_ragged_rows_missing_csvs_and_duplicates_are_found(calvin):
    csv = calvin / "data" / "calvin_metadata_train.csv"
    lines = csv.read_text().splitlines()
    lines[3] += ",surplus"
    lines.append(lines[1])
    csv.write_text("\n".join(lines))
    assert sorted(kinds(check(calvin))) == ["duplicates", "rows"]
    csv.unlink()
    report = check(calvin)
    assert kinds(report) == ["csv"]
    assert "calvin_metadata_train.csv" in report.problems[0].reason


def test_d8_windows_divided_at_random_leak_in_lary_and_not_in_native(tmp_path):
    """Defect D8: VLABench's splits share episodes and frames, LIBERO's the mirrored twins."""
    make_vlabench(tmp_path)
    found = [p.reason for p in check(tmp_path, "vlabench").problems]
    assert len(found) == 2
    assert "recordings are in both splits" in found[0]
    assert "frames or clips are in both splits" in found[1]
    assert check(tmp_path, "vlabench", "native").problems == ()
    make_libero(tmp_path)
    reasons = [p.reason for p in check(tmp_path, "libero").problems if p.where == "leakage"]
    assert any("mirrored twins" in reason for reason in reasons)
    assert [p for p in check(tmp_path, "libero", "native").problems if p.where == "leakage"] == []


def test_twins_and_segments_of_a_clip_in_two_splits_are_leaks(tmp_path):
    make_clips(tmp_path)
    reasons = [p.reason for p in check(tmp_path, "robot_1st").problems if p.where == "leakage"]
    assert [r.split(" ", 1)[1].split(" are")[0] for r in reasons] == [
        "recordings", "samples or their mirrored twins",
    ]  # fmt: skip
    assert [p for p in check(tmp_path, "robot_1st", "native").problems if p.where == "leakage"] == []


def test_damaged_short_and_lying_clips_are_found(tmp_path):
    make_clips(tmp_path)
    rows = rows_of(tmp_path, "robot_1st_metadata_train.csv")
    media = [tmp_path / "classification" / row["video_path"] for row in rows]
    os.truncate(media[0], media[0].stat().st_size // 2)
    write_video(media[1], moving_square(10, 32, 24))
    media[2].unlink()
    found = {p.item: p.reason for p in check(tmp_path, "robot_1st").problems if p.where == "clips"}
    assert set(found) == {str(p) for p in media[:3]}
    assert "10 frames" in found[str(media[1])]
    assert "no such file" in found[str(media[2])]


def test_classes_that_training_lacks_or_has_once_are_found(tmp_path):
    make_libero(tmp_path)
    name = "libero_metadata_train.csv"
    rows = rows_of(tmp_path, name)
    only = next(i for i, row in enumerate(rows) if row["action"] == "Open")
    rows = [row for i, row in enumerate(rows) if row["action"] not in ("Open", "Close") or i == only]
    write_csv(tmp_path, name, rows[0], rows)
    reasons = [p.reason for p in check(tmp_path, "libero").problems if p.where == "labels"]
    assert reasons[0] == "5 classes, the benchmark has 28"
    assert reasons[1] == "class 'Open' has a single row"
    assert "class 'Close'" in reasons[2]


def test_blank_robot_types_are_named(tmp_path):
    make_robocoin(tmp_path)
    report = check(tmp_path, "robocoin")
    assert set(kinds(report)) == {"rows"}
    assert "a robot type" in report.problems[0].reason
    make_agibotbeta(tmp_path)
    assert check(tmp_path, "agibotbeta").problems == ()


def test_processes_time_limits_rows_and_progress(calvin):
    image = path(calvin, "src_img")
    image.unlink()
    os.mkfifo(image)  # reading it would never end
    source = open_source("calvin", data_dir=calvin, protocol="lary")
    seen = []
    report = verify_source(source, workers=2, timeout_s=3, on_progress=lambda *a: seen.append(a))
    assert [(p.where, p.item) for p in report.problems] == [("images", str(image))]
    assert "no regular file" in report.problems[0].reason
    assert seen == [(n, 81) for n in range(1, 82)]
    assert verify_source(source, workers=0, limit=1).checked["rows"] == 2
