import csv
import filecmp
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from lary_policy.data.atomic import PRIMITIVES
from lary_policy.data.larybench.pair_csv import load_pairs
from lary_policy.data.simulated import collect
from lary_policy.data.simulated.collect import collect_demonstrations
from lary_policy.data.simulated.verify import verify_dataset
from lary_policy.data.simulated.writer import read_episodes
from lary_policy.errors import DatasetError, StoreError
from lary_policy.frames.frame import decode_frame
from lary_policy.latents.plan import encode_tables
from lary_policy.latents.samples import load_latents
from lary_policy.latents.store import LatentStore

OPTIONS = {"splits": {"train": [0, 1, 2], "val": [10]}, "image_px": 32, "num_worlds": 4}
NOISE = {"noise_std_m": 0.015, "noise_std_rad": 0.05}


def files(root):
    return sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def reach(tmp_path_factory):
    root = tmp_path_factory.mktemp("reach") / "set"
    return root, collect_demonstrations(root, "reach", cameras=("front", "wrist"), **OPTIONS, **NOISE)


@pytest.fixture(scope="module")
def pick_place(tmp_path_factory):
    root = tmp_path_factory.mktemp("pick") / "set"
    return root, collect_demonstrations(root, "pick_place", **OPTIONS)


@pytest.mark.parametrize("name", ["reach", "pick_place"])
def test_dataset_is_complete_consistent_and_counted(request, arm7, name):
    root, report = request.getfixturevalue(name)
    assert verify_dataset(root).problems == ()
    assert report.episodes == {"train": 3, "val": 1}
    assert report.failed == ()
    tables = [load_pairs(root, name, split, embodiment=arm7, stride=5) for split in ("train", "val")]
    assert sum(len(t) for t in tables) == report.pairs
    assert sum(len(t.frame_paths()) for t in tables) == report.frames
    assert sum(t.labels().count("") for t in tables) == report.unlabelled
    assert {label for t in tables for label in t.labels()} <= {"", *PRIMITIVES}
    meta = json.loads((root / "dataset.json").read_text())
    assert (meta["stride"], meta["image_px"], meta["embodiment"]) == (5, 32, "arm7")
    assert meta["versions"]["mujoco"]


@pytest.mark.parametrize("name", ["reach", "pick_place"])
def test_episodes_end_a_chunk_after_success(request, name):
    root, _ = request.getfixturevalue(name)
    for record in read_episodes(root):
        assert record.success
        assert record.steps % 5 == 0
        assert 5 <= record.steps - record.success_step < 10
        steps = sorted(int(p.stem[-6:]) for p in (root / "images" / f"ep_{record.episode}").iterdir())
        assert steps == list(range(0, record.steps + 1, 5))


def test_pick_place_closes_then_opens_and_measured_poses_follow_commands(pick_place, arm7):
    root, _ = pick_place
    table = load_pairs(root, "pick_place", "train", embodiment=arm7, stride=5)
    for episode in table.episodes().unique():
        labels = [table.labels()[i] for i in torch.nonzero(table.episodes() == episode).flatten().tolist()]
        assert labels.index("Close") < labels.index("Open")
    first_of_next, last = table.anchors()[1:], table.actions()[:-1, -1]
    same = table.episodes()[1:] == table.episodes()[:-1]
    lag = (first_of_next - last)[same][:, :3].norm(dim=-1)
    assert float(lag.max()) < 0.03  # the arm is at most 3 cm behind its last command
    assert torch.equal(table.executed(), table.actions())


def test_disturbed_chunks_are_marked_and_hold_the_executed_poses(reach, arm7):
    root, _ = reach
    table = load_pairs(root, "reach", "train", embodiment=arm7, stride=5)
    differs = (table.executed() != table.actions()).any(-1).sum(-1)
    assert bool((table.noise_steps() > 0).any())
    assert torch.equal(differs > 0, table.noise_steps() > 0)
    assert bool((differs <= table.noise_steps()).all())
    assert torch.equal(table.executed()[..., 6], table.actions()[..., 6])
    clean = load_pairs(root, "reach", "val", embodiment=arm7, stride=5)
    assert not clean.noise_steps().any()


def test_both_cameras_show_different_pictures_of_the_asked_size(reach, arm7):
    root, _ = reach
    table = load_pairs(root, "reach", "train", embodiment=arm7, stride=5)
    assert table.cameras == ("front", "wrist")
    front, wrist = (np.asarray(Image.open(p)) for p in table.rows[0].src_frames)
    assert front.shape == wrist.shape == (32, 32, 3)
    assert front.std() > 10
    assert np.abs(front.astype(int) - wrist).mean() > 10
    assert load_pairs(root, "reach", "val", embodiment=arm7, stride=5, cameras=["wrist"]).cameras == (
        "wrist",
    )


def test_latents_of_two_cameras_are_found_by_their_own_column(reach, arm7, pool_encoder, tmp_path):
    pairs = load_pairs(reach[0], "reach", "train", embodiment=arm7, stride=5)
    store = LatentStore(tmp_path / "store", pool_encoder.fingerprint, pool_encoder.latent)
    encode_tables([pairs], pool_encoder, store)
    table = load_latents(pairs, store)
    assert table.index.shape == (len(pairs), 2, 2)
    for row, index in zip(pairs.rows, table.index, strict=True):
        for side, files_of_side in enumerate((row.src_frames, row.tgt_frames)):
            frames = torch.stack([decode_frame(p) for p in files_of_side]).unsqueeze(1)
            assert torch.equal(table.bank[index[side]], pool_encoder.encode(frames)[:, 0].half())


def test_csv_has_the_columns_of_the_benchmark_first(reach):
    with (reach[0] / "reach_metadata_train.csv").open() as file:
        header = next(csv.reader(file))
    lary = ["dataset", "type", "perspective", "src_img", "src_state", "tgt_img", "tgt_state", "action"]
    assert header == [*lary, "episode", "label", "executed", "noise_steps", "src_img_wrist", "tgt_img_wrist"]


def test_result_does_not_depend_on_worlds_threads_or_an_interruption(reach, tmp_path, monkeypatch):
    """Two worlds instead of four, stopped after the first batch, then two threads: the same bytes."""
    root = tmp_path / "again"

    def stop(done, total):
        assert (done, total) == (2, 4)
        raise KeyboardInterrupt

    options = {**OPTIONS, **NOISE, "cameras": ("front", "wrist"), "num_worlds": 2}
    with pytest.raises(KeyboardInterrupt):
        collect_demonstrations(root, "reach", on_progress=stop, **options)
    assert not root.exists()
    seen = []
    monkeypatch.setattr(collect, "_LEAST", 1)
    monkeypatch.setattr(collect, "available_cores", lambda: 2)
    report = collect_demonstrations(root, "reach", on_progress=lambda *a: seen.append(a), **options)
    assert seen == [(3, 4), (4, 4)]
    assert report.episodes == {"train": 3, "val": 1}
    names = files(reach[0])
    assert files(root) == names
    data = [str(n) for n in names if n.name not in ("dataset.json", "checksums.json")]
    assert filecmp.cmpfiles(reach[0], root, data, shallow=False)[1:] == ([], [])
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_a_complete_dataset_is_reused_and_other_settings_are_refused(pick_place):
    root, first = pick_place
    again = collect_demonstrations(root, "pick_place", **OPTIONS)
    assert again.reused
    assert not first.reused
    assert (again.frames, again.pairs, again.episodes) == (first.frames, first.pairs, first.episodes)
    with pytest.raises(DatasetError, match="differs in image_px"):
        collect_demonstrations(root, "pick_place", **{**OPTIONS, "image_px": 40})


def test_a_foreign_folder_is_never_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DatasetError, match=r"without dataset\.json"):
        collect_demonstrations(tmp_path, "reach", **OPTIONS)
    assert (tmp_path / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize("splits", [{}, {"train": []}, {"train": [1, 2], "test": [2]}])
def test_seeds_must_be_there_and_different(tmp_path, splits):
    with pytest.raises(DatasetError, match="every seed once"):
        collect_demonstrations(tmp_path / "set", "reach", splits=splits)


def test_failed_experts_are_left_out_and_listed(tmp_path):
    """Disturbances far beyond what the task's time allows make some experts fail."""
    options = {**OPTIONS, "splits": {"train": list(range(8)), "val": [10]}, "num_worlds": 9}
    report = collect_demonstrations(tmp_path / "set", "reach", noise_std_m=0.05, **options)
    assert 0 < len(report.failed) < 8
    assert report.episodes["train"] + len(report.failed) == 8
    assert all("did not succeed" in q.reason and "train" in q.item for q in report.failed)
    kept = {r.seed for r in read_episodes(tmp_path / "set")}
    assert kept.isdisjoint(int(q.item.split()[1]) for q in report.failed)
    assert verify_dataset(tmp_path / "set").ok


def test_a_full_disk_is_a_store_error_and_the_next_call_continues(tmp_path, monkeypatch):
    options = {"splits": {"train": [0], "val": [1]}, "image_px": 32, "num_worlds": 1}

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(StoreError, match="No space left"):
            collect_demonstrations(tmp_path / "set", "reach", **options)
    assert not (tmp_path / "set").exists()
    assert collect_demonstrations(tmp_path / "set", "reach", **options).episodes == {"train": 1, "val": 1}


def test_two_that_collect_into_one_folder_at_once_both_end_well(tmp_path):
    """One computes, the other waits; a lock is held by an opened file, so threads contend as processes do."""
    options = {"splits": {"train": [0], "val": [1]}, "image_px": 32, "num_worlds": 2}
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(collect_demonstrations, tmp_path / "set", "reach", **options) for _ in range(2)]
        reports = [job.result() for job in jobs]
    assert sorted(report.reused for report in reports) == [False, True]
    assert reports[0].pairs == reports[1].pairs > 0
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
