import json
import os
import shutil

import numpy as np
import pytest

from lary_policy.data.larybench.pair_csv import load_pairs
from lary_policy.data.simulated.verify import verify_dataset
from lary_policy.data.splits import find_leaks
from lary_policy.errors import DatasetError
from lary_policy.frames import file_digest
from lary_policy.latents.plan import encode_tables
from lary_policy.latents.store import LatentStore
from lary_policy.latents.verify import verify_store

SPLITS = ("train", "val")


def check(made):
    return verify_dataset(made.root, embodiment="arm7", stride=5)


def test_a_sound_dataset_has_no_problems(synthetic):
    report = check(synthetic)
    assert report.ok
    assert report.checked == {"csv": 1, "rows": 12, "images": 15, "episodes": 3}


def _truncated_image(made):
    path = made.path(2, "src_img")
    path.write_bytes(path.read_bytes()[:-20])
    return "images", path.name


def _missing_image(made):
    made.path(2, "src_img").unlink()
    return "images", "no such file"


def _flipped_image_byte(made):
    path = made.path(2, "src_img")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)
    return "images", "checksum"


def _bad_action(made):
    np.save(made.path(2, "action"), np.full((5, 7), np.inf, np.float32))
    return "load_pairs", "infinite"


def _bad_target_state(made):
    np.save(made.path(3, "tgt_state"), np.zeros(6, np.float32))
    return "tgt_state", "6 (shape"


def _duplicate(made):
    made.rows.append(made.rows[4])
    return "duplicates", "2 rows"


def _escape(made):
    made.rows[2]["action"] = "../../etc/passwd"
    return "load_pairs", "inside"


def _no_column(made):
    made.columns = ("src_img", "tgt_img")
    return "metadata", "missing action"


FAULTS = [
    _truncated_image, _missing_image, _flipped_image_byte, _bad_action, _bad_target_state, _duplicate,
    _escape, _no_column,
]  # fmt: skip


@pytest.mark.parametrize("damage", FAULTS, ids=lambda f: f.__name__.strip("_"))
def test_each_fault_is_found_once(synthetic, damage):
    where, reason = damage(synthetic)
    synthetic.save()
    report = check(synthetic)
    assert not report.ok
    assert [p.where for p in report.problems] == [where]
    assert reason in report.problems[0].reason + report.problems[0].item


def test_frames_and_episodes_shared_between_splits_are_leaks(make_synthetic):
    made = make_synthetic()
    rest, made.rows = made.rows[6:], made.rows[:6]
    made.save()
    made.split, made.rows = "train", rest
    made.save()
    reasons = [p.reason for p in check(made).problems]
    assert [p.where for p in check(made).problems] == ["leakage", "leakage"]
    assert "1 episodes" in reasons[0]
    assert "1 frames" in reasons[1]


def two_splits(make_synthetic, **options):
    """Return a dataset of an episode 0 in val and an episode 7 in train."""
    made = make_synthetic(episodes=1, **options)
    other = make_synthetic("other", episodes=1, first_episode=7, split="train", **options)
    for folder in ("images", "actions", "states"):
        shutil.move(other.root / folder / "ep_7", made.root / folder)
    shutil.move(other.root / "calvin_metadata_train.csv", made.root)
    assert check(made).ok
    return made, other.rows


def copied(made, rows, row, *columns):
    """Copy what a row of val names to where that of train has its own."""
    for column in columns:
        shutil.copy(made.path(row, column), made.root / rows[row][column])
    return [problem.reason.split(" are")[0] for problem in check(made).problems]


def test_a_copied_moment_under_another_name_is_a_leak_and_a_picture_alone_is_none(make_synthetic):
    made, rows = two_splits(make_synthetic)
    assert copied(made, rows, 1, "src_img") == []  # the state differs
    assert copied(made, rows, 1, "src_state") == ["1 frames"]


def test_where_episodes_start_alike_their_actions_decide(make_synthetic):
    made, rows = two_splits(make_synthetic)
    assert copied(made, rows, 0, "src_img", "src_state") == []
    assert copied(made, rows, 0, "action") == ["1 frames"]


@pytest.mark.parametrize("states", [True, False])
def test_a_camera_that_sees_the_same_is_no_leak_and_a_copied_episode_is_one(make_synthetic, states):
    made, rows = two_splits(make_synthetic, states=states)
    made.columns = (*made.columns, "src_img_wrist", "tgt_img_wrist")
    own, table = made.rows, made.path(0, "src_img").read_bytes()
    for split, of_split in (("train", rows), ("val", own)):
        for row in of_split:
            for side in ("src", "tgt"):
                row[f"{side}_img_wrist"] = row[f"{side}_img"].replace("images", "images_wrist")
                view = made.root / row[f"{side}_img_wrist"]
                view.parent.mkdir(parents=True, exist_ok=True)
                view.write_bytes(table)  # the same one, always
        made.split, made.rows = split, of_split
        made.save()
    made.rows = own
    assert check(made).ok
    for row in range(len(rows)):
        sides = [f"{side}_{what}" for side in ("src", "tgt") for what in ("img", "state")[: 1 + states]]
        reasons = copied(made, rows, row, "action", *sides)
    assert reasons == ["5 frames"]


def test_named_states_of_the_scene_tell_moments_apart(make_synthetic, arm7):
    made, rows = two_splits(make_synthetic)
    assert copied(made, rows, 1, "src_img", "src_state") == ["1 frames"]
    tables = {split: load_pairs(made.root, "calvin", split, embodiment=arm7, stride=5) for split in SPLITS}
    ids = {frame: file_digest(frame) for table in tables.values() for frame in table.frame_paths()}
    one, other = ((table.rows[1].episode, table.rows[1].src_step) for table in tables.values())
    assert list(find_leaks(tables, ids, {one: "goal left", other: "goal right"})) == []
    for scenes in ({one: "goal left", other: "goal left"}, {one: "goal left"}, {}):
        assert len(list(find_leaks(tables, ids, scenes))) == 1


def test_a_damaged_state_of_the_scene_is_a_problem(synthetic):
    synthetic.columns = (*synthetic.columns, "episode")
    for i, row in enumerate(synthetic.rows):
        row["episode"] = i // 4
    synthetic.save()
    (synthetic.root / "scene").mkdir()
    (synthetic.root / "scene/ep_1.json").write_text("{")
    assert [(p.where, p.item) for p in check(synthetic).problems] == [("scene", "episode 1")]


def test_rows_are_compared_with_episodes_json(synthetic, arm7):
    rows = {
        "seed": 0,
        "split": "val",
        "steps": 20,
        "success": True,
        "success_step": 9,
        "labels": [],
        "noise_steps": [],
    }
    synthetic.columns = (*synthetic.columns, "episode")
    for i, row in enumerate(synthetic.rows):
        row["episode"] = i // 4
    synthetic.save()
    path = synthetic.root / "episodes.json"
    path.write_text(json.dumps({str(n): rows for n in range(3)}))
    assert check(synthetic).ok
    path.write_text(json.dumps({str(n): {**rows, "steps": 25 if n == 1 else 20} for n in range(4)}))
    found = {p.item: p.reason for p in check(synthetic).problems}
    assert list(found) == ["episode 1 (val)", "episode 3 (val)"]
    assert "5 chunks, the CSV has 4" in found["episode 1 (val)"]
    path.write_text("{")
    assert [p.where for p in check(synthetic).problems] == ["episodes"]


def test_nothing_is_guessed(synthetic, tmp_path):
    with pytest.raises(DatasetError, match="embodiment None, stride None"):
        verify_dataset(synthetic.root)
    with pytest.raises(DatasetError, match="none"):
        verify_dataset(tmp_path, embodiment="arm7", stride=5)


@pytest.fixture(params=[("float16", False), ("float16", True), ("float32", False)], ids=str)
def store(request, synthetic, arm7, pool_encoder, tmp_path):
    pairs = load_pairs(synthetic.root, "calvin", "val", embodiment=arm7, stride=5)
    dtype, packed = request.param
    spec = pool_encoder.fingerprint, pool_encoder.latent
    made = LatentStore(tmp_path / "store", *spec, dtype=dtype, packed=packed)
    encode_tables([pairs], pool_encoder, made)
    return made


def test_a_sound_store_has_no_problems(store):
    report = verify_store(store.root)
    assert report.ok
    assert report.checked == {"shards": 1, "frames": 15}


def test_a_flipped_byte_in_a_shard_is_found(store):
    data = bytearray(store.shards()[0].read_bytes())
    data[len(data) // 2] ^= 16
    store.shards()[0].write_bytes(data)
    report = verify_store(store.root)
    assert [p.item for p in report.problems] == [str(store.shards()[0])]
    assert "lary extract" in report.problems[0].reason


def test_missing_shard_and_missing_store_are_found(store, tmp_path):
    store.shards()[0].unlink()
    assert "missing" in verify_store(store.root).problems[0].reason
    assert not verify_store(tmp_path / "nowhere").ok


def test_progress_is_reported(synthetic, store):
    seen = []
    verify_dataset(synthetic.root, embodiment="arm7", stride=5, on_progress=lambda *a: seen.append(a))
    verify_store(store.root, on_progress=lambda *a: seen.append(a))
    assert seen == [*((n, 15) for n in range(1, 16)), (1, 1)]


@pytest.mark.parametrize("column", ["src_img", "action", "tgt_state"])
def test_a_pipe_is_named_and_not_waited_for(synthetic, column):
    path = synthetic.path(2, column)
    path.unlink()
    os.mkfifo(path)
    report = verify_dataset(synthetic.root, embodiment="arm7", stride=5, workers=0)
    assert report.problems
    assert all("no regular file" in problem.reason for problem in report.problems)
