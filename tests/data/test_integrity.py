import json
import os
import shutil

import numpy as np
import pytest

from lary_policy.data.larybench.pair_csv import load_pairs
from lary_policy.data.simulated.verify import verify_dataset
from lary_policy.errors import DatasetError
from lary_policy.latents.plan import encode_tables
from lary_policy.latents.store import LatentStore
from lary_policy.latents.verify import verify_store


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


def test_a_copied_frame_under_another_name_is_a_leak(make_synthetic):
    made = make_synthetic(episodes=1)
    shutil.move(
        make_synthetic("other", episodes=1, first_episode=7).root / "images" / "ep_7", made.root / "images"
    )
    for folder in ("actions", "states"):
        shutil.move(made.root.parent / "other" / folder / "ep_7", made.root / folder)
    shutil.move(
        made.root.parent / "other" / "calvin_metadata_val.csv", made.root / "calvin_metadata_train.csv"
    )
    assert check(made).ok
    shutil.copy(made.path(0, "src_img"), made.root / "images" / "ep_7" / "frame_007000.png")
    assert ["1 frames" in p.reason for p in check(made).problems] == [True]


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
