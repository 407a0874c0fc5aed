"""Every key of the benchmark, both protocols, both path styles; nothing guesses a split from a path."""

import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from larybench_files import (
    make_calvin,
    make_clips,
    make_libero,
    read_csv,
    to_old_style,
    write_csv,
    write_sample,
)
from video_files import decode_all, read_clip

from lary_policy.actions.embodiment import load_embodiment
from lary_policy.data.larybench.clip_csv import parse_indices, recording_of
from lary_policy.data.larybench.sets import benchmark_set, list_benchmark_sets, require_stride
from lary_policy.data.registry import list_sources, open_source
from lary_policy.data.splits import split_of
from lary_policy.errors import DatasetError, FrameFormatError, UnknownNameError
from lary_policy.frames.frame import decode_frames
from lary_policy.frames.stored import VideoFrame

# Protocol section 1.1: task kind, splits, stride, action dim, numbers of one target.
TABLE = {
    "human_1st": ("clips", ("train", "val"), None, None, None),
    "robot_1st": ("clips", ("train", "val"), None, None, None),
    "libero": ("pairs", ("train", "val"), None, None, None),
    "calvin": ("pairs", ("train", "val"), 5, 7, 35),
    "vlabench": ("pairs", ("train", "val"), 5, 7, 35),
    "vlabench_15": ("pairs", ("train", "val"), 15, 7, 105),
    "vlabench_30": ("pairs", ("train", "val"), 30, 7, 210),
    "agibotbeta": ("pairs", ("seen_train", "seen_val", "unseen"), 45, 16, 720),
    "robocoin": ("pairs", ("seen_train", "seen_val", "unseen"), 10, 12, 120),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("larybench"))


def read(source, split):
    return source.pairs(split) if source.spec.kind == "pairs" else source.clips(split)


@pytest.mark.parametrize("key", TABLE)
def test_keys_are_those_of_the_protocol(key):
    kind, splits, stride, dim, target = TABLE[key]
    known = benchmark_set(key)
    assert (known.kind, known.splits, known.stride) == (kind, splits, stride)
    assert list_benchmark_sets() == tuple(TABLE)
    if dim is None:
        assert known.num_classes == {"human_1st": 123, "robot_1st": 54, "libero": 28}[key]
        with pytest.raises(DatasetError, match="which has classes"):
            require_stride(known)
    else:
        assert load_embodiment(known.embodiment).action_dim == dim
        assert require_stride(known) * dim == target


@pytest.mark.parametrize("key", TABLE)
def test_lary_reads_the_files_own_splits_row_by_row(bench, key):
    source = open_source(key, data_dir=bench, protocol="lary")
    assert source.spec.splits == TABLE[key][1]
    assert (source.spec.train_split, source.spec.select_split) == TABLE[key][1][:2]
    assert source.spec.report_splits == TABLE[key][1][1:]
    for split in source.spec.splits:
        rows = read_csv(bench / "data" / f"{key}_metadata_{split}.csv")
        table = read(source, split)
        assert table.quarantined == ()
        assert [row.line for row in table.rows] == list(range(2, len(rows) + 2))
        if key in ("libero", "human_1st", "robot_1st"):
            assert list(table.labels()) == [row["action"] for row in rows]
        if TABLE[key][3]:
            assert table.actions().shape == (len(rows), TABLE[key][2], TABLE[key][3])
            assert table.robot_types() == tuple(row.get("robot_type", "") for row in rows)
            assert all(p.is_file() for p in table.frame_paths())


@pytest.mark.parametrize("key", TABLE)
def test_native_splits_share_no_recording_and_lose_no_row(bench, key):
    source = open_source(key, data_dir=bench)
    assert source.spec.splits[:3] == ("train", "val", "test")
    recordings, rows = {}, Counter()
    for split in source.spec.splits:
        for file in source.files(split):
            rows.update((file.path.name, line) for line, _ in file.rows)
            recordings.setdefault(split, set()).update(source.recording(file, c) for _, c in file.rows)
    for one, other in itertools.combinations(recordings, 2):
        assert not recordings[one] & recordings[other], (one, other)
    stated = {
        (f"{key}_metadata_{split}.csv", line)
        for split in TABLE[key][1]
        for line in range(2, len(read_csv(bench / "data" / f"{key}_metadata_{split}.csv")) + 2)
    }
    assert set(rows) == stated
    assert set(rows.values()) == {1}


def test_calvins_other_environment_stays_the_test_split(bench):
    source = open_source("calvin", data_dir=bench)
    test = source.pairs("test")
    assert {row.csv for row in test.rows} == {"calvin_metadata_val.csv"}
    assert all("val_stride5" in str(p) for p in test.frame_paths())
    assert all(row.episode.startswith("val_stride5/") for row in test.rows)
    assert all("train_stride5" in str(p) for p in source.pairs("train").frame_paths())


@pytest.mark.parametrize("protocol", ["native", "lary"])
def test_paths_without_their_folder_lead_to_the_same_files(tmp_path, protocol):
    make_calvin(tmp_path)
    before = open_source("calvin", data_dir=tmp_path, protocol=protocol).pairs("train")
    for split in ("train", "val"):
        to_old_style(tmp_path / "data" / f"calvin_metadata_{split}.csv")
    assert "images/" not in (tmp_path / "data" / "calvin_metadata_train.csv").read_text()
    after = open_source("calvin", data_dir=tmp_path, protocol=protocol).pairs("train")
    assert after.frame_paths() == before.frame_paths()
    assert torch.equal(after.actions(), before.actions())


def test_states_that_are_named_but_not_used_do_not_matter(tmp_path):
    make_calvin(tmp_path)
    state = tmp_path / "regression/calvin/train_stride5/states/ep_1/state_000065.npy"
    state.parent.mkdir(parents=True)
    np.save(state, np.zeros(15))  # CALVIN's own states have 15 numbers
    table = open_source("calvin", data_dir=tmp_path, protocol="lary").pairs("train")
    assert (table.quarantined, table.has_states) == ((), False)
    assert torch.equal(table.anchors(), table.actions()[:, 0])


def test_clips_see_the_frames_of_sample_indices(bench):
    table = open_source("robot_1st", data_dir=bench, protocol="lary").clips("train")
    row = table.rows[3]
    np.testing.assert_array_equal(
        read_clip(row).numpy(), decode_all(row.path)[[1, 3, 5, 7, 9, 11, 13, 15, 17]]
    )
    assert len(set(table.frame_ids(row))) == 9
    assert table.frame_ids(row) == table.select([3]).frame_ids(row)


def test_frame_ids_follow_content_not_names(tmp_path):
    make_clips(tmp_path, recordings=2, segments=1)
    table = open_source("robot_1st", data_dir=tmp_path, protocol="lary").clips("train")
    one, other = table.rows[:2]
    assert not set(table.frame_ids(one)) & set(table.frame_ids(other))
    other.path.write_bytes(one.path.read_bytes())
    assert table.frame_ids(one) == table.frame_ids(other)


def test_padded_indices_repeat_the_frame_and_indices_behind_the_end_follow_the_protocol(tmp_path):
    make_clips(tmp_path)
    path = tmp_path / "data" / "robot_1st_metadata_train.csv"
    rows = read_csv(path)
    rows[0]["sample_indices"], rows[1]["sample_indices"] = "2,4,4,4", "2,30,40"
    write_csv(tmp_path, path.name, rows[0], rows)
    lary = open_source("robot_1st", data_dir=tmp_path, protocol="lary").clips("train")
    assert torch.equal(read_clip(lary.rows[0])[1], read_clip(lary.rows[0])[3])
    last = decode_all(lary.rows[1].path)[19]
    np.testing.assert_array_equal(read_clip(lary.rows[1])[2].numpy(), last)
    row = lary.rows[1]
    frames = decode_frames([VideoFrame(row.path, i, row.clamp) for i in row.indices])
    assert torch.equal(torch.stack(frames), read_clip(row))
    native = open_source("robot_1st", data_dir=tmp_path)
    tables = [native.clips(split) for split in native.spec.splits]
    [row] = [r for t in tables for r in t.rows if r.indices == (2, 30, 40)]
    with pytest.raises(FrameFormatError, match="frame 30 is not there, the last is 19"):
        read_clip(row)


@pytest.mark.parametrize("text", ["", "a,b", "3,2", "-1,2", "1;2", "1,,2"])
def test_bad_indices_name_the_command_that_makes_them(text):
    with pytest.raises(DatasetError, match="lary data indices"):
        parse_indices(text)


def test_bad_clip_rows_are_quarantined_with_reasons(tmp_path):
    make_clips(tmp_path)
    path = tmp_path / "data" / "robot_1st_metadata_train.csv"
    rows = read_csv(path)
    rows[0]["video_path"] = "AgiBotWorld-Beta/none.mp4"
    rows[1]["action"] = " "
    rows[2]["sample_indices"] = ""
    rows[3]["video_path"] = "../../secret.mp4"
    write_csv(tmp_path, path.name, rows[0], rows)
    table = open_source("robot_1st", data_dir=tmp_path, protocol="lary").clips("train")
    assert [q.item for q in table.quarantined] == [f"{path.name}:{n}" for n in range(2, 6)]
    for item, part in zip(
        table.quarantined, ("no such file", "empty cell", "indices", "inside"), strict=True
    ):
        assert part in item.reason
    assert len(table) == len(rows) - 4


def test_recordings_join_segments_and_mirrored_twins():
    assert recording_of("SSv2/17_0_rev.mp4") == recording_of("SSv2/17_3.mp4") == "SSv2/17"
    assert recording_of("EgoDex/3279/12_4.mp4") == "EgoDex/3279/12"
    assert recording_of("Ego4D/a.b-c.mp4") == "Ego4D/a.b-c"


def test_regrouped_shares_are_as_stated_and_depend_on_the_name_alone():
    splits = Counter(split_of(f"ep_{i}") for i in range(20_000))
    assert splits["test"] / 20_000 == pytest.approx(0.2, abs=0.01)
    assert splits["val"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert split_of("ep_1", test_share=0.0, val_share=0.0) == "train"


def test_wrong_kind_split_option_key_and_folder_are_named(bench, tmp_path):
    calvin, robot = open_source("calvin", data_dir=bench), open_source("robot_1st", data_dir=bench)
    with pytest.raises(DatasetError, match="calvin, a source of pairs"):
        calvin.clips("train")
    with pytest.raises(DatasetError, match="robot_1st, a source of clips"):
        robot.pairs("train")
    with pytest.raises(UnknownNameError, match=r"seen_val.*Valid names: test, train, val"):
        calvin.pairs("seen_val")
    with pytest.raises(UnknownNameError, match="calvin"):
        open_source("clavin", data_dir=bench)
    with pytest.raises(UnknownNameError, match="native"):
        open_source("calvin", data_dir=bench, protocol="paper")
    with pytest.raises(UnknownNameError, match=r"'strid'.*csv_dir, protocol"):
        open_source("calvin", data_dir=bench, strid=5)
    with pytest.raises(DatasetError, match="data_dir="):
        open_source("calvin")
    with pytest.raises(DatasetError, match="does not exist"):
        open_source("calvin", data_dir=tmp_path / "none")
    with pytest.raises(DatasetError, match=r"calvin_metadata_train\.csv.*\(none\)"):
        open_source("calvin", data_dir=tmp_path).pairs("train")
    assert {*TABLE, "simulated"} <= set(list_sources())


@pytest.mark.parametrize("folder", ["my_train_box", "val_of_all", "unseen_train_disk"])
def test_d18_no_split_is_guessed_from_a_path(tmp_path, folder):
    """Defect D18: the reference looks for `_train` anywhere in the path; `unseen` becomes train."""
    make_calvin(tmp_path / folder)
    source = open_source("calvin", data_dir=tmp_path / folder, protocol="lary")
    assert all("val_stride5" in str(p) for p in source.pairs("val").frame_paths())
    assert all("train_stride5" in str(p) for p in source.pairs("train").frame_paths())


def test_d6_one_label_map_from_train_for_every_split(tmp_path):
    """Defect D6: the reference numbers the classes of each CSV anew, so a missing class shifts the others."""
    from lary_policy.data.labels import LabelMap

    make_libero(tmp_path)
    source = open_source("libero", data_dir=tmp_path, protocol="lary")
    train, val = source.pairs("train"), source.pairs("val")
    labels = LabelMap.fit(train.labels())
    assert labels.classes == tuple(sorted(set(train.labels())))
    thinned = [i for i, label in enumerate(val.labels()) if label != labels.classes[0]]
    part = val.select(thinned)
    items = [part.item(row) for row in part.rows]
    encoded = labels.encode(part.labels(), items)
    assert [labels.classes[i] for i in encoded.ids.tolist()] == list(part.labels())
    with pytest.raises(DatasetError, match=r"28 classes.*got 6"):
        LabelMap.fit(train.labels(), expected=28)
    short = LabelMap.fit([label for label in train.labels() if label != "Open"])
    left = short.encode(val.labels(), [val.item(row) for row in val.rows])
    assert len(left.quarantined) == val.labels().count("Open") > 0
    assert len(left.ids) + len(left.quarantined) == len(val)
    with pytest.raises(DatasetError, match="1 others: Open"):
        short.encode(val.labels(), [val.item(row) for row in val.rows], strict=True)


def test_d20_libero_runs_under_one_name_from_end_to_end(bench):
    """Defect D20: the reference writes one CSV name for LIBERO and looks for another."""
    source = open_source("libero", data_dir=bench, protocol="lary")
    assert source.data.latents_name("val", "dinov2") == "val_la_libero_dinov2.csv"
    table = source.pairs("val")
    assert table.actions().shape == (len(table), 0, 0)
    assert table.labels() is not None


@pytest.mark.parametrize(
    ("key", "split", "rows", "frames"),
    [("calvin", "val", 12, 15), ("agibotbeta", "unseen", 24, 36), ("robocoin", "unseen", 18, 24)],
)
def test_d31_frames_that_pairs_share_count_once(bench, key, split, rows, frames):
    """Defect D31: the reference loads and encodes two frames a row; chained pairs share theirs."""
    table = open_source(key, data_dir=bench, protocol="lary").pairs(split)
    assert (len(table), len(table.frame_paths())) == (rows, frames)


@pytest.mark.parametrize(
    ("name", "rows", "classes", "frames", "loads"),
    [
        ("libero_metadata_val.csv", 6_485, 28, 11_762, 12_970),
        ("calvin_metadata_val.csv", 11_969, None, 13_056, 23_938),
        ("robocoin_metadata_unseen.csv", 14_159, None, 19_200, 28_318),
        ("vlabench_30_metadata_train.csv", 12_546, None, 18_474, 25_092),
        ("agibotbeta_metadata_unseen.csv", 12_303, None, 20_822, 24_606),
    ],
)
def test_d31_counts_of_the_benchmarks_own_csvs(name, rows, classes, frames, loads):
    """Rows, classes and unique frames as in protocol sections 1.3, 1.6 and 7, where the CSVs are at hand."""
    folder = os.environ.get("LARYBENCH_CSV_DIR")
    if not folder or not (Path(folder) / name).is_file():
        pytest.skip("LARYBENCH_CSV_DIR does not name a folder with this CSV")
    cells = read_csv(Path(folder) / name)
    assert len(cells) == rows
    assert 2 * len(cells) == loads
    assert len({c[column] for c in cells for column in ("src_img", "tgt_img")}) == frames
    if classes is not None:
        assert len({c["action"] for c in cells}) == classes
