"""Simulated demonstrations as LeRobot datasets and back: every step, nothing lost, nothing half done."""

import json
import logging
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lerobot_files import JOINT_NAMES, write_lerobot
from PIL import Image
from written import rewrite

from lary_policy.actions.embodiment import load_embodiment
from lary_policy.data import layout
from lary_policy.data.lerobot.from_lerobot import import_demonstrations
from lary_policy.data.lerobot.metadata import map_actions
from lary_policy.data.lerobot.to_lerobot import export_demonstrations
from lary_policy.data.lerobot.view import ABOUT, LeRobotAbout
from lary_policy.data.registry import open_source
from lary_policy.data.simulated.collect import collect_demonstrations
from lary_policy.data.simulated.verify import verify_dataset
from lary_policy.data.simulated.writer import read_episodes
from lary_policy.errors import (
    ConfigError,
    DatasetError,
    EmbodimentError,
    StoreError,
    UnknownNameError,
    UnsafePathError,
)
from lary_policy.frames.frame import decode_frame
from lary_policy.paths import SEAL

SPLITS = {"train": [0, 1, 2, 3], "val": [10], "test": [20]}
WORST_DB, MEAN_DB = (
    26.0,
    30.0,
)  # of h264 at the default quality; frames of 48 pixels have more edges than most


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Disturbances so large that the expert fails an episode."""
    root = tmp_path_factory.mktemp("bridge") / "sim"
    report = collect_demonstrations(
        root, "reach", splits=SPLITS, cameras=("front", "wrist"), image_px=48, num_worlds=6,
        noise_std_m=0.05, noise_std_rad=0.05,
    )  # fmt: skip
    assert 0 < len(report.failed) < 4
    return root


@pytest.fixture(scope="module")
def images(simulated):
    return export_demonstrations(simulated, simulated.parent / "images", video=False)


@pytest.fixture(scope="module")
def video(simulated):
    return export_demonstrations(simulated, simulated.parent / "video", num_worlds=2)


@pytest.fixture
def copy(simulated, tmp_path):
    return shutil.copytree(simulated, tmp_path / "sim")


def by_lerobot(root):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("local/lary-reach", root=root, video_backend="pyav")


def decibels(first, second):
    error = (first.float() - second.float()).square().mean()
    return float(10 * torch.log10(255**2 / error))


def test_lerobot_reads_every_step_as_it_was_stored(simulated, images):
    theirs, first = by_lerobot(images), 0
    for record in read_episodes(simulated):
        steps = [theirs[first + i] for i in range(record.steps + 1)]
        for step in range(0, record.steps + 1, 5):
            for folder, camera in (("images", "front"), ("images_wrist", "wrist")):
                stored = decode_frame(simulated / layout.frame_file(folder, record.episode, step))
                seen = (steps[step][f"observation.images.{camera}"] * 255).round().byte()
                assert torch.equal(seen, stored.permute(2, 0, 1))
            pose = np.load(simulated / layout.state_file(record.episode, step))
            assert np.array_equal(steps[step]["observation.state"], pose)
        chunks = [np.load(simulated / layout.action_file(record.episode, s, s + 5))
                  for s in range(0, record.steps, 5)]  # fmt: skip
        actions = torch.stack([step["action"] for step in steps])
        assert np.array_equal(actions[:-1], np.concatenate(chunks))
        assert torch.equal(actions[-1], actions[-2])  # arrived: the last target is held
        success = [bool(step["next.success"]) for step in steps]
        assert success.index(True) == record.success_step - 1
        assert sum(int(step["disturbed"]) for step in steps) >= sum(record.noise_steps)
        assert {step["task"] for step in steps} == {"move the gripper to the magenta sphere"}
        first += record.steps + 1
    assert first == len(theirs)


def test_lerobot_reads_the_right_frames_of_a_video_of_many_episodes(simulated, video):
    theirs, first = by_lerobot(video), 0
    for record in read_episodes(simulated):
        stored = decode_frame(simulated / layout.frame_file("images_wrist", record.episode, record.steps))
        seen = theirs[first + record.steps]["observation.images.wrist"] * 255
        assert decibels(seen.permute(1, 2, 0), stored) > WORST_DB
        first += record.steps + 1


def test_frames_between_the_stored_ones_are_frames_of_their_own(images):
    theirs = by_lerobot(images)
    views = torch.stack([theirs[i]["observation.images.front"] for i in range(6)])
    assert bool((views.diff(dim=0).abs().amax((1, 2, 3)) > 0).all())


def test_what_lerobot_knows_of_it(video, simulated):
    from lerobot.utils.feature_utils import dataset_to_policy_features

    meta = by_lerobot(video).meta
    records = read_episodes(simulated)
    train = sum(r.split == "train" for r in records)
    assert meta.info.splits == {
        "train": f"0:{train}",
        "val": f"{train}:{train + 1}",
        "test": f"{train + 1}:{train + 2}",
    }
    assert (meta.fps, meta.robot_type, len(meta.video_keys)) == (20, "arm7", 2)
    for key in ("observation.state", "action"):
        assert list(meta.features[key]["names"]) == list(load_embodiment("arm7").labels)
        assert meta.features[key]["info"]["embodiment"] == "arm7"
    assert sorted(dataset_to_policy_features(meta.features)) == [
        "action", "observation.images.front", "observation.images.wrist", "observation.state",
    ]  # fmt: skip
    assert meta.features["observation.images.front"]["info"]["video.codec"] == "h264"


def test_seeds_and_failed_episodes_are_named(simulated, images):
    about = LeRobotAbout.read(images)
    assert about.episodes == tuple((r.episode, r.seed, r.split) for r in read_episodes(simulated))
    assert {r.seed for r in about.failed}.isdisjoint(seed for _, seed, _ in about.episodes)
    assert len(about.failed) + len(about.episodes) == 6
    assert (about.steps, about.unreadable) == (len(by_lerobot(images)), ())


@pytest.mark.parametrize("kind", ["images", "video"])
def test_as_a_source_it_has_the_pairs_of_the_simulated_one(simulated, kind, request, caplog):
    with caplog.at_level(logging.WARNING):
        bridged = open_source("lerobot", data_dir=request.getfixturevalue(kind))
    assert caplog.text == ""  # nothing was inferred
    assert (bridged.spec.embodiment, bridged.spec.cameras) == ("arm7", ("front", "wrist"))
    ours = open_source("simulated", data_dir=simulated)
    for split in SPLITS:
        first, second = ours.pairs(split), bridged.pairs(split)
        assert len(first) == len(second) > 0
        for values in ("actions", "executed", "anchors", "noise_steps"):
            assert torch.allclose(getattr(first, values)(), getattr(second, values)(), rtol=0, atol=1e-6)
        for one, other in zip(first.rows, second.rows, strict=True):
            quality = [
                decibels(decode_frame(a), decode_frame(b))
                for a, b in zip(one.tgt_frames, other.tgt_frames, strict=True)
            ]
            assert min(quality) > (WORST_DB if kind == "video" else 1000)
    assert bool((bridged.pairs("train").noise_steps() > 0).any())


def test_images_there_and_back_are_the_same_files(simulated, images, tmp_path):
    back = tmp_path / "back"
    report = import_demonstrations(images, back)
    # The scene is what simulation knows and no dataset holds.
    names = {
        p.relative_to(simulated) for p in simulated.rglob("*") if p.is_file() and p.parent.name != "scene"
    }
    assert names == {p.relative_to(back) for p in back.rglob("*") if p.is_file()}
    for name in names:
        if name.suffix == ".png":
            assert torch.equal(decode_frame(simulated / name), decode_frame(back / name))
        elif name.name not in (layout.DATASET_FILE, "checksums.json"):  # which say when, and by what
            assert (simulated / name).read_bytes() == (back / name).read_bytes(), name
    first, second = (json.loads((root / layout.DATASET_FILE).read_text()) for root in (simulated, back))
    assert {k: v for k, v in second.items() if k not in ("origin", "content", "seconds", SEAL)} == {
        k: v for k, v in first.items() if k not in ("seconds", SEAL)
    }
    assert verify_dataset(back).ok
    assert import_demonstrations(images, back).reused
    assert not report.reused


def test_a_video_there_and_back_keeps_all_numbers_and_most_of_the_picture(simulated, video, tmp_path):
    back = tmp_path / "back"
    import_demonstrations(video, back)
    assert (simulated / layout.EPISODES_FILE).read_bytes() == (back / layout.EPISODES_FILE).read_bytes()
    pairs = [(decode_frame(p), decode_frame(back / p.relative_to(simulated)))
             for p in simulated.rglob("*.png")]  # fmt: skip
    assert min(decibels(*pair) for pair in pairs) > WORST_DB
    assert decibels(*(torch.stack(frames) for frames in zip(*pairs, strict=True))) > MEAN_DB
    with pytest.raises(DatasetError, match="came out of a video"):
        export_demonstrations(back, tmp_path / "again")


def test_one_split_one_camera_and_a_name(simulated, tmp_path):
    out = export_demonstrations(
        simulated, tmp_path / "out", repo_id="me/reach", split="val", cameras=("wrist",), video=False
    )
    assert LeRobotAbout.read(out).repo_id == "me/reach"
    meta = by_lerobot(out).meta
    assert (meta.info.splits, meta.image_keys) == ({"val": "0:1"}, ["observation.images.wrist"])
    assert import_demonstrations(out, tmp_path / "back").episodes == {"val": 1}


def test_the_same_is_reused_and_anything_else_is_never_overwritten(simulated, video, tmp_path):
    before = (video / ABOUT).stat().st_mtime_ns
    assert export_demonstrations(simulated, video) == video
    assert (video / ABOUT).stat().st_mtime_ns == before
    with pytest.raises(DatasetError, match="differs in crf"):
        export_demonstrations(simulated, video, crf=20)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DatasetError, match="something else"):
        export_demonstrations(simulated, tmp_path)


@pytest.mark.parametrize("how", ["stopped", "full disk"])
def test_an_unfinished_dataset_leaves_nothing(simulated, tmp_path, monkeypatch, how):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    def stop(done, total):
        raise KeyboardInterrupt

    def full(*_):
        raise OSError(28, "No space left on device")

    options = {"split": "test", "cameras": ("front",), "video": False}
    if how == "stopped":
        with pytest.raises(KeyboardInterrupt):
            export_demonstrations(simulated, tmp_path / "out", on_progress=stop, **options)
    else:
        monkeypatch.setattr(LeRobotDataset, "save_episode", full)
        with pytest.raises(StoreError, match="No space left"):
            export_demonstrations(simulated, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"cameras": ("top",)}, UnknownNameError, "front, wrist"),
        ({"split": "dev"}, UnknownNameError, "train"),
        ({"codec": "vp9"}, UnknownNameError, "h264"),
        ({"crf": 90}, ConfigError, "51"),
    ],
)
def test_names_and_numbers_that_do_not_exist(simulated, tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        export_demonstrations(simulated, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_frames_of_odd_size_cannot_become_a_video(copy, tmp_path):
    rewrite(copy / layout.DATASET_FILE, image_px=47)
    with pytest.raises(ConfigError, match="video=false"):
        export_demonstrations(copy, tmp_path / "out")


def test_an_episode_that_does_not_repeat_itself_is_an_error(copy, tmp_path):
    record = read_episodes(copy, "test")[0]
    path = copy / layout.action_file(record.episode, 0, 5)
    np.save(path, np.load(path) + 0.01)
    with pytest.raises(DatasetError, match=r"repeat itself: poses.*mujoco"):
        export_demonstrations(copy, tmp_path / "out", split="test", video=False)
    np.save(path, np.load(path) - 0.01)
    frame = copy / layout.frame_file("images", record.episode, 5)
    Image.fromarray(255 - np.asarray(Image.open(frame))).save(frame)
    with pytest.raises(DatasetError, match="grey levels"):
        export_demonstrations(copy, tmp_path / "out", split="test", video=False)
    frame.write_bytes(frame.read_bytes()[:100])
    out = export_demonstrations(copy, tmp_path / "out", split="test", video=False)
    assert LeRobotAbout.read(out).unreadable == (layout.frame_file("images", record.episode, 5),)


def test_only_a_recorded_simulation_can_be_played_again(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / layout.DATASET_FILE).write_text('{"dataset": "calvin", "stride": 5}')
    with pytest.raises(DatasetError, match="without task"):
        export_demonstrations(tmp_path / "other", tmp_path / "out")


@pytest.mark.parametrize("name", ["arm7", "arm12", "arm16"])
def test_every_embodiment_is_found_by_its_own_labels(name):
    layout_ = load_embodiment(name)
    mapping = map_actions(
        layout_.labels, layout_.control_hz, embodiment=name, action_names=None, title="t"
    )  # fmt: skip
    assert (mapping.columns, mapping.origin) == (tuple(range(layout_.action_dim)), "by name")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return write_lerobot(
        tmp_path_factory.mktemp("foreign") / "set", episodes=5, cameras=("top", "wrist"), video=False
    )


def test_a_foreign_dataset_becomes_demonstrations(foreign, tmp_path):
    report = import_demonstrations(foreign, tmp_path / "out", embodiment="arm7", name="push")
    assert (report.episodes, report.failed, report.dataset) == (
        {"train": 3, "val": 1, "test": 1}, (), "push",
    )  # fmt: skip
    assert verify_dataset(tmp_path / "out").ok
    ours = open_source("simulated", data_dir=tmp_path / "out")
    theirs = open_source("lerobot", data_dir=foreign, embodiment="arm7")
    for split in ("train", "val", "test"):
        first, second = ours.pairs(split), theirs.pairs(split)
        assert torch.equal(first.actions(), second.actions())
        assert torch.equal(first.anchors(), second.anchors())
        assert {"Forward", "Left", "Down"} & set(first.labels())
        assert torch.equal(
            decode_frame(first.rows[1].src_frames[1]), decode_frame(second.rows[1].src_frames[1])
        )
    assert {r.seed for r in read_episodes(tmp_path / "out")} == {0, 1, 2, 3, 4}
    with pytest.raises(DatasetError, match="differs in stride"):
        import_demonstrations(foreign, tmp_path / "out", embodiment="arm7", name="push", stride=4)


def test_no_name_in_a_dataset_leads_out_of_the_folder(foreign, simulated, tmp_path):
    evil, root = "../../evil", shutil.copytree(foreign, tmp_path / "set")
    for path in (root / "meta/info.json", *root.rglob("*.parquet")):
        if path.suffix == ".json":
            path.write_text(path.read_text().replace("images.wrist", f"images.{evil}"))
        else:
            table = pq.read_table(path)
            names = [name.replace("images.wrist", f"images.{evil}") for name in table.column_names]
            pq.write_table(table.rename_columns(names), path)
    out = tmp_path / "a" / "b" / "out"
    with pytest.raises(UnsafePathError, match="a camera as a plain name"):
        import_demonstrations(root, out, embodiment="arm7")
    with pytest.raises(UnsafePathError, match="a dataset as a plain name"):
        import_demonstrations(foreign, out, embodiment="arm7", name=evil)
    demos = shutil.copytree(simulated, tmp_path / "demos")
    seeds = json.loads((demos / layout.DATASET_FILE).read_text())["seeds"]
    for change, split in (({"dataset": evil}, "val"), ({"seeds": {**seeds, evil: [9]}}, evil)):
        before = rewrite(demos / layout.DATASET_FILE, **change)
        with pytest.raises(UnsafePathError, match=r"a (dataset|split) as a plain name"):
            open_source("simulated", data_dir=demos).pairs(split)
        rewrite(demos / layout.DATASET_FILE, **before)
    rewrite(demos / layout.DATASET_FILE, cameras=["front", "front"])
    with pytest.raises(DatasetError, match="no usable cameras"):
        open_source("simulated", data_dir=demos)
    assert not [path for path in tmp_path.rglob("*evil*") if not path.is_relative_to(root)]


def test_what_was_corrected_in_place_is_never_taken_for_what_was_written_before(foreign, simulated, tmp_path):
    """Neither the frames nor the numbers of an earlier state of the same folder are passed off as new."""
    root = shutil.copytree(foreign, tmp_path / "set")
    import_demonstrations(root, tmp_path / "out", embodiment="arm7")
    assert import_demonstrations(root, tmp_path / "out", embodiment="arm7").reused
    edit_table(root, "observation.images.top", lambda cells: cells[0].update(bytes=cells[9]["bytes"]))
    with pytest.raises(DatasetError, match="differs in content"):
        import_demonstrations(root, tmp_path / "out", embodiment="arm7")
    assert not import_demonstrations(root, tmp_path / "new", embodiment="arm7").reused
    demos = shutil.copytree(simulated, tmp_path / "sim")
    written = export_demonstrations(demos, tmp_path / "lerobot", split="val", video=False)
    assert export_demonstrations(demos, written, split="val", video=False) == written
    action = next(demos.rglob("actions/**/*.npy"))
    np.save(action, np.load(action) + 1)
    with pytest.raises(DatasetError, match="differs in content"):
        export_demonstrations(demos, written, split="val", video=False)


@pytest.mark.parametrize(
    ("written", "options", "error", "words"),
    [
        ({}, {}, EmbodimentError, "embodiment=<name>"),
        ({"state": False}, {"embodiment": "arm7"}, DatasetError, "measured poses"),
        ({"fps": 30}, {"embodiment": "arm7"}, EmbodimentError, "20 steps a second"),
        ({"names": JOINT_NAMES, "dim": 4}, {"embodiment": "arm7"}, EmbodimentError, "7 numbers"),
    ],
)
def test_what_cannot_become_demonstrations_is_refused_by_name(tmp_path, written, options, error, words):
    root = write_lerobot(tmp_path / "set", video=False, episodes=1, steps=7, **written)
    with pytest.raises(error, match=words):
        import_demonstrations(root, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def edit_table(root, column, edit):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = next((root / "data").rglob("*.parquet"))
    table = pq.read_table(path)
    cells = table[column].to_pylist()
    edit(cells)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(cells, table[column].type)), path)


def test_damaged_episodes_are_left_out_and_named(foreign, tmp_path):
    root = shutil.copytree(foreign, tmp_path / "set")
    edit_table(root, "observation.images.top", lambda cells: cells[5].update(bytes=b"no image"))
    edit_table(root, "action", lambda cells: cells[70].__setitem__(0, float("nan")))
    report = import_demonstrations(root, tmp_path / "out", embodiment="arm7")
    reasons = {q.item: q.reason for q in report.failed}
    assert sorted(reasons) == ["seed 0 (train)", "seed 3 (train)"]
    assert "complete image" in reasons["seed 0 (train)"]
    assert "not finite" in reasons["seed 3 (train)"]
    assert verify_dataset(tmp_path / "out").ok
    edit_table(root, "action", lambda cells: cells[30].__setitem__(0, float("nan")))  # in the only one of val
    with pytest.raises(DatasetError, match="for example episode 1: an action or state is not finite"):
        import_demonstrations(root, tmp_path / "none", embodiment="arm7")


def test_an_edited_dataset_does_not_get_the_seeds_of_others(images, tmp_path):
    root = shutil.copytree(images, tmp_path / "set")
    about = json.loads((root / ABOUT).read_text())
    rewrite(root / ABOUT, episodes=about["episodes"][1:])
    with pytest.raises(DatasetError, match=r"Delete meta/lary\.json"):
        import_demonstrations(root, tmp_path / "out")
    (root / ABOUT).write_text("{}")
    with pytest.raises(DatasetError, match="to-lerobot"):
        import_demonstrations(root, tmp_path / "out")
    (root / ABOUT).unlink()
    report = import_demonstrations(root, tmp_path / "out", stride=5)
    assert sum(report.episodes.values()) == len(about["episodes"])
