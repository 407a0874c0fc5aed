import csv
import os

import numpy as np
import pytest
import torch

from lary_policy.data.larybench import pair_csv, pair_rows
from lary_policy.data.larybench.pair_csv import load_pairs
from lary_policy.data.larybench.pair_rows import PairReader
from lary_policy.errors import DatasetError, UnknownNameError


def read(synthetic, arm7, **options):
    return load_pairs(synthetic.root, "calvin", "val", embodiment=arm7, stride=5, **options)


def test_table_holds_what_the_files_hold(synthetic, arm7):
    table = read(synthetic, arm7)
    assert len(table) == 12
    assert table.quarantined == ()
    assert table.actions().shape == (12, 5, 7)
    assert table.actions().dtype == torch.float32
    for i, row in enumerate(synthetic.rows):
        np.testing.assert_array_equal(table.actions()[i].numpy(), np.load(synthetic.root / row["action"]))
        np.testing.assert_array_equal(table.anchors()[i].numpy(), np.load(synthetic.root / row["src_state"]))
    assert table.executed() is table.actions() or torch.equal(table.executed(), table.actions())
    assert table.episodes().unique().numel() == 3
    assert table.labels() is None
    assert [r.src_step for r in table.rows[:4]] == [0, 5, 10, 15]


def test_chained_pairs_share_frames(synthetic, arm7):
    assert len(read(synthetic, arm7).frame_paths()) == 3 * 5


def test_paths_without_prefix_resolve_to_the_same_files(synthetic, arm7):
    before = read(synthetic, arm7)
    for row in synthetic.rows:
        for column in ("src_img", "tgt_img", "src_state", "tgt_state", "action"):
            row[column] = row[column].split("/", 1)[1]
    synthetic.save()
    after = read(synthetic, arm7)
    assert after.frame_paths() == before.frame_paths()
    assert torch.equal(after.actions(), before.actions())
    assert torch.equal(after.anchors(), before.anchors())


def test_task_folder_before_images_names_the_episode(make_synthetic, arm7):
    made = make_synthetic()
    (made.root / "task_7").mkdir()
    for folder in ("images", "actions", "states"):
        (made.root / folder).rename(made.root / "task_7" / folder)
    for row in made.rows:
        for column in ("src_img", "tgt_img", "src_state", "tgt_state", "action"):
            row[column] = f"task_7/{row[column]}"
    made.save()
    table = read(made, arm7)
    assert {row.episode for row in table.rows} == {f"task_7/ep_{i}" for i in range(3)}
    assert table.episodes().tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_short_csv_name_is_found_and_unknown_split_lists_what_exists(synthetic, arm7):
    (synthetic.root / "calvin_metadata_val.csv").rename(synthetic.root / "calvin_val.csv")
    assert len(read(synthetic, arm7)) == 12
    with pytest.raises(DatasetError, match=r"calvin_metadata_train\.csv.*calvin_val\.csv"):
        load_pairs(synthetic.root, "calvin", "train", embodiment=arm7, stride=5)


def test_missing_columns_are_named_with_those_present(synthetic, arm7):
    synthetic.columns = ("dataset", "src_img", "tgt_state")
    synthetic.save()
    with pytest.raises(DatasetError, match=r"columns dataset, src_img, tgt_state; missing tgt_img, action"):
        read(synthetic, arm7)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00bad", b'src_img,tgt_img,action\n"open quote,a,b\n'])
def test_broken_csv_is_a_dataset_error(synthetic, arm7, content):
    (synthetic.root / "calvin_metadata_val.csv").write_bytes(content)
    with pytest.raises(DatasetError):
        read(synthetic, arm7)


def _missing_action(made):
    made.path(2, "action").unlink()
    return "no such file"


def _short_action(made):
    np.save(made.path(2, "action"), np.zeros((4, 7), np.float32))
    return "28"


def _non_finite_action(made):
    bad = np.zeros((5, 7), np.float32)
    bad[3, 1] = np.nan
    np.save(made.path(2, "action"), bad)
    return "NaN"


def _pickled_action(made):
    np.save(made.path(2, "action"), np.array([{"a": 1}] * 35, dtype=object), allow_pickle=True)
    return "numeric"


def _empty_action(made):
    made.path(2, "action").write_bytes(b"")
    return "numeric"


def _escaping_action(made):
    made.rows[2]["action"] = "actions/../../secret.npy"
    return "'actions/../..'"


def _absolute_image(made):
    made.rows[2]["src_img"] = "/etc/passwd"
    return "'/etc/passwd'"


def _linked_folder(made):
    outside = made.root.parent / "outside"
    outside.mkdir()
    (made.root / "images" / "ep_link").symlink_to(outside)
    made.rows[2]["tgt_img"] = "images/ep_link/frame_000015.png"
    return "inside"


def _linked_file(made):
    made.path(2, "action").unlink()
    outside = made.root.parent / "outside.npy"
    np.save(outside, np.zeros((5, 7), np.float32))
    made.path(2, "action").symlink_to(outside)
    return "inside"


def _empty_cell(made):
    made.rows[2]["tgt_img"] = ""
    return "empty cell"


def _missing_state(made):
    made.path(2, "src_state").unlink()
    return "no such file"


def _wrong_stride(made):
    made.rows[2]["tgt_img"] = made.rows[3]["tgt_img"]
    return "5 steps apart"


FAULTS = [
    _missing_action, _short_action, _non_finite_action, _pickled_action, _empty_action, _escaping_action,
    _absolute_image, _linked_folder, _linked_file, _empty_cell, _missing_state, _wrong_stride,
]  # fmt: skip


@pytest.mark.parametrize("damage", FAULTS, ids=lambda f: f.__name__.strip("_"))
def test_a_bad_row_is_quarantined_with_its_reason_and_the_others_stay(synthetic, arm7, damage):
    whole = read(synthetic, arm7)
    reason = damage(synthetic)
    synthetic.save()
    table = read(synthetic, arm7)
    assert len(table) == 11
    assert [q.item for q in table.quarantined] == ["calvin_metadata_val.csv:4"]
    assert reason in table.quarantined[0].reason
    keep = [0, 1, *range(3, 12)]
    assert torch.equal(table.actions(), whole.actions()[keep])
    assert table.rows == tuple(whole.rows[i] for i in keep)


def _double_precision(made):
    np.save(made.path(2, "action"), np.load(made.path(2, "action")).astype(np.float64))


def _columns_first(made):
    np.save(made.path(2, "action"), np.asfortranarray(np.load(made.path(2, "action"))))


def _trailing_bytes(made):
    made.path(2, "action").write_bytes(made.path(2, "action").read_bytes() + b"more")


def _other_first_file(made):
    np.save(made.path(0, "action"), np.load(made.path(0, "action")).ravel())


def _short_headers(made):
    """As numpy before 1.14 wrote them, padded to 16 bytes, with as many bytes behind as lack before."""
    for number in range(12):
        content = made.path(number, "action").read_bytes()
        text = content[10:128].rstrip(b" \n") + b" "
        text += b" " * (-(len(text) + 11) % 16) + b"\n"
        head = content[:8] + len(text).to_bytes(2, "little") + text
        made.path(number, "action").write_bytes(head + content[128:] + b"\0" * (128 - len(head)))


def _overflow(made):
    np.save(made.path(2, "action"), np.full((5, 7), 1e300))


def _empty_first_block(made):
    for number in range(5):
        made.path(number, "action").write_bytes(b"")


def _executed(made):
    made.columns = (*made.columns, "executed", "noise_steps", "robot_type", "label")
    (made.root / "executed").mkdir()
    np.save(made.root / "executed" / "run.npy", np.ones((5, 7), np.float32))
    for row in made.rows:
        row.update(executed="", noise_steps="", robot_type=" arm ", label="Up")
    made.rows[1].update(executed="executed/run.npy", noise_steps="3")
    made.rows[2].update(noise_steps="three")
    made.rows[3].update(executed="executed/none.npy")


UNUSUAL = (
    _double_precision,
    _columns_first,
    _trailing_bytes,
    _other_first_file,
    _short_headers,
    _overflow,
    _empty_first_block,
    _executed,
)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("states", [True, False])
@pytest.mark.parametrize("damage", [*FAULTS, *UNUSUAL], ids=lambda f: f.__name__.strip("_"))
def test_rows_read_in_blocks_are_those_read_one_by_one(make_synthetic, arm7, monkeypatch, damage, states):
    if damage is _missing_state and not states:
        pytest.skip("there are no states to miss")
    made = make_synthetic(states=states)
    damage(made)
    made.save()
    monkeypatch.setattr(pair_csv, "BLOCK_ROWS", 5)
    blocks = read(made, arm7)
    monkeypatch.setattr(PairReader, "_plain", lambda *_: None)
    alone = read(made, arm7)
    assert blocks.rows == alone.rows
    assert blocks.quarantined == alone.quarantined
    assert torch.equal(blocks.actions(), alone.actions())
    assert torch.equal(blocks.executed(), alone.executed())
    assert torch.equal(blocks.anchors(), alone.anchors())
    assert len(blocks) + len(blocks.quarantined) == 12


def test_usual_rows_take_the_short_path(synthetic, arm7, monkeypatch):
    monkeypatch.setattr(pair_rows, "read_row", None)  # nothing about these rows is unusual
    assert len(read(synthetic, arm7)) == 12


def test_a_ragged_row_is_quarantined(synthetic, arm7):
    path = synthetic.root / "calvin_metadata_val.csv"
    lines = path.read_text().splitlines()
    lines[3] = lines[3].rsplit(",", 2)[0]
    lines[5] += ",surplus"
    path.write_text("\n".join(lines))
    table = read(synthetic, arm7)
    assert [q.item for q in table.quarantined] == ["calvin_metadata_val.csv:4", "calvin_metadata_val.csv:6"]


def test_no_usable_row_is_an_error_that_shows_a_reason(synthetic, arm7):
    with pytest.raises(DatasetError, match=r"12 quarantined rows.*15 steps apart"):
        load_pairs(synthetic.root, "calvin", "val", embodiment=arm7, stride=15)


def test_without_shipped_states_the_anchor_is_the_first_action(make_synthetic, arm7):
    table = read(make_synthetic(states=False), arm7)
    assert not table.has_states
    assert table.quarantined == ()
    assert torch.equal(table.anchors(), table.actions()[:, 0])


def test_flat_action_files_are_read_row_major(synthetic, arm7):
    before = read(synthetic, arm7).actions()
    for row in synthetic.rows:
        np.save(synthetic.root / row["action"], np.load(synthetic.root / row["action"]).ravel())
    assert torch.equal(read(synthetic, arm7).actions(), before)


def test_select_keeps_rows_and_values_together(synthetic, arm7):
    table = read(synthetic, arm7)
    part = table.select(torch.tensor([7, 2]))
    assert part.rows == (table.rows[7], table.rows[2])
    assert torch.equal(part.actions(), table.actions()[[7, 2]])
    assert torch.equal(part.anchors(), table.anchors()[[7, 2]])
    assert len(part) == 2


def test_unknown_camera_lists_the_known(synthetic, arm7):
    with pytest.raises(UnknownNameError, match="main"):
        read(synthetic, arm7, cameras=["wrist"])


def test_further_cameras_come_from_columns_and_dataset_json_names_the_first(synthetic, arm7):
    (synthetic.root / "dataset.json").write_text('{"cameras": ["front", "wrist"]}')
    (synthetic.root / "images_wrist").symlink_to(synthetic.root / "images")  # stays inside the root
    for row in synthetic.rows:
        for side in ("src_img", "tgt_img"):
            row[f"{side}_wrist"] = row[side].replace("images/", "images_wrist/")
    synthetic.columns = (*synthetic.columns, "src_img_wrist", "tgt_img_wrist")
    synthetic.save()
    table = read(synthetic, arm7)
    assert table.cameras == ("front", "wrist")
    assert all(len(row.src_frames) == 2 for row in table.rows)
    assert (
        read(synthetic, arm7, cameras=["wrist", "front"]).rows[0].src_frames == table.rows[0].src_frames[::-1]
    )
    assert read(synthetic, arm7, cameras=["wrist"]).cameras == ("wrist",)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"cameras": []}'])
def test_damaged_dataset_json_is_a_dataset_error(synthetic, arm7, text):
    (synthetic.root / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        read(synthetic, arm7)


def test_ten_thousand_rows_are_read_in_csv_order(synthetic, arm7):
    path = synthetic.root / "calvin_metadata_val.csv"
    rows = list(csv.reader(path.open()))
    order = np.random.default_rng(0).integers(1, 13, 10_000)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *(rows[i] for i in order)])
    table = read(synthetic, arm7)
    expected = np.load(synthetic.root / synthetic.rows[order[-1] - 1]["action"])
    np.testing.assert_array_equal(table.actions()[-1].numpy(), expected)
    assert len(table) == 10_000
    assert os.fspath(table.source) == os.fspath(path)


@pytest.mark.parametrize("digits", ["9" * 25, "9" * 5000])
def test_numbers_that_no_computer_holds_set_their_row_aside(synthetic, arm7, digits):
    first, second, third = synthetic.rows[:3]
    first["src_img"] = f"images/ep_0/frame_{digits}.png"
    second["action"] = f"actions/ep_0/action_{digits}to{digits}.npy"
    third["noise_steps"] = digits
    for row in synthetic.rows:
        row.setdefault("noise_steps", "0")
        row["episode"] = "7"
    synthetic.rows[-1]["episode"] = digits
    synthetic.columns += ("noise_steps", "episode")
    synthetic.save()
    table = read(synthetic, arm7)
    assert [q.item.rpartition(":")[2] for q in table.quarantined] == ["3", "4"]  # images are opened later
    assert table.episodes().tolist() == [0] * 9 + [1]
