"""LeRobot datasets, written by LeRobot itself, as sources: frames, actions, states, splits, classes."""

import json
import shutil

import pytest
import torch
from lerobot_files import JOINT_NAMES, write_lerobot

from lary_policy.actions.embodiment import load_embodiment
from lary_policy.data.lerobot.source import LeRobotSource
from lary_policy.data.splits import EPISODE_PATTERN, split_of_episode
from lary_policy.errors import ConfigError, DatasetError, EmbodimentError, UnknownNameError
from lary_policy.frames.frame import decode_frames
from lary_policy.latents.plan import encode_tables
from lary_policy.latents.samples import load_latents
from lary_policy.latents.store import LatentStore


@pytest.fixture(scope="module")
def video_root(tmp_path_factory):
    return write_lerobot(tmp_path_factory.mktemp("lerobot") / "video", cameras=("top", "wrist"))


@pytest.fixture(scope="module")
def image_root(tmp_path_factory):
    return write_lerobot(tmp_path_factory.mktemp("lerobot") / "image", video=False, state=False)


@pytest.fixture
def copy(video_root, tmp_path):
    return shutil.copytree(video_root, tmp_path / "copy")


def by_lerobot(root):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("tests/tiny", root=root, video_backend="pyav")


@pytest.mark.parametrize("kind", ["video_root", "image_root"])
def test_every_row_is_what_lerobot_itself_reads(kind, request):
    root = request.getfixturevalue(kind)
    source, theirs = LeRobotSource(data_dir=root), by_lerobot(root)
    table = source.pairs("train")
    firsts = {e.number: i for e, i in zip(source.files.episodes, [0, 21, 43, 66], strict=True)}
    assert len(table) == sum((e.length - 1) // 5 for e in source.episodes("train"))
    for row, actions, anchor in zip(table.rows, table.actions(), table.anchors(), strict=True):
        first = firsts[int(row.episode)]
        steps = [theirs[first + row.src_step + i] for i in range(6)]
        assert [int(s["frame_index"]) for s in (steps[0], steps[5])] == [row.src_step, row.tgt_step]
        raw = torch.stack([s["action"] for s in steps[:5]])
        assert torch.equal(actions[:, :6], raw[:, :6])
        assert torch.allclose(actions[:, 6], raw[:, 6] / 100)
        pose = steps[0].get("observation.state", raw[0])
        assert torch.equal(anchor[:6], pose[:6])
        for frames, step in ((row.src_frames, steps[0]), (row.tgt_frames, steps[5])):
            for camera, image in zip(source.cameras, decode_frames(frames), strict=True):
                assert torch.equal(image.permute(2, 0, 1), (step[camera] * 255).round().byte())


def test_what_a_source_says_of_itself(video_root, image_root):
    video, image = LeRobotSource(data_dir=video_root), LeRobotSource(data_dir=image_root, stride=3)
    assert (video.spec.stride, video.spec.cameras, video.spec.where) == (5, ("top", "wrist"), "lerobot")
    assert (image.spec.stride, image.pairs("train").has_states) == (3, False)
    assert video.pairs("val").has_states
    assert load_embodiment(video.spec.embodiment).action_dim == 7
    for words in ("2 train, 1 val, 1 test", "top, wrist", "inferred", "x, y, z", "open = high"):
        assert words in video.describe()


def test_cameras_are_chosen_by_short_or_full_name(video_root):
    one = LeRobotSource(data_dir=video_root, cameras=("observation.images.wrist",)).pairs("val")
    both = LeRobotSource(data_dir=video_root, cameras=("wrist", "top")).pairs("val")
    assert one.rows[0].src_frames[0] == both.rows[0].src_frames[0]
    with pytest.raises(UnknownNameError, match=r"top.*wrist"):
        LeRobotSource(data_dir=video_root, cameras=("front",))


def test_splits_share_no_episode_and_cover_all(video_root):
    source = LeRobotSource(data_dir=video_root)
    split = {s: {e.number for e in source.episodes(s)} for s in source.spec.splits}
    assert split == {"train": {0, 3}, "val": {1}, "test": {2}}


def test_splits_of_numbered_episodes_have_their_shares_in_every_ten():
    for block in range(20):
        found = [split_of_episode(10 * block + i) for i in range(10)]
        assert sorted(found) == sorted(EPISODE_PATTERN)
    assert len({tuple(split_of_episode(10 * b + i) for i in range(10)) for b in range(20)}) > 10


def test_splits_that_the_dataset_states_are_taken(copy):
    info = json.loads((copy / "meta" / "info.json").read_text())
    info["splits"] = {"train": "0:2", "val": "2:3", "test": "3:4"}
    (copy / "meta" / "info.json").write_text(json.dumps(info))
    source = LeRobotSource(data_dir=copy)
    assert [e.number for e in source.episodes("train")] == [0, 1]
    assert "own splits" in source.describe()


def test_tasks_are_classes(video_root):
    source = LeRobotSource(data_dir=video_root, classes="tasks")
    table = source.pairs("train")
    assert source.spec.embodiment is None
    assert {(r.episode, r.label) for r in table.rows} == {("0", "push the cube"), ("3", "lift the cube")}


def test_primitives_are_derived_from_measured_poses(video_root):
    from lary_policy.data.atomic import AtomicConfig, AtomicSource

    labels = (
        AtomicSource(LeRobotSource(data_dir=video_root), AtomicConfig(twins=False)).pairs("train").labels()
    )
    assert {"Forward", "Left", "Down", "Close"} <= set(labels)


def test_an_open_gripper_may_be_the_low_number(video_root):
    high, low = (
        LeRobotSource(data_dir=video_root, gripper_open=o).pairs("train").actions() for o in ("high", "low")
    )
    assert torch.allclose(high[..., 6], 1 - low[..., 6])
    assert set(high[..., 6].flatten().tolist()) == {0.0, 1.0}


def test_latents_of_two_cameras_are_extracted_once_and_loaded(video_root, pool_encoder, tmp_path):
    table = LeRobotSource(data_dir=video_root).pairs("train")
    store = LatentStore(tmp_path / "store", pool_encoder.fingerprint, pool_encoder.latent)
    report = encode_tables([table], pool_encoder, store)
    # Chains of chunks share frames: one more than chunks in each of two episodes, for each camera.
    assert report.encoded == pool_encoder.frames_seen == 2 * (len(table) + 2)
    latents = load_latents(table, store)
    assert tuple(latents.index.shape) == (len(table), 2, 2)
    assert encode_tables([table], pool_encoder, store).encoded == 0


def test_joints_of_a_real_arm(tmp_path):
    root = write_lerobot(tmp_path / "so", names=JOINT_NAMES, dim=4, episodes=3, fps=30)
    source = LeRobotSource(data_dir=root)
    assert source.spec.stride == 8
    assert [g.kind for g in source.mapping.embodiment.groups] == ["gripper", "joint"]
    with pytest.raises(EmbodimentError, match="7 numbers of arm7"):
        LeRobotSource(data_dir=root, embodiment="arm7")


def test_without_names_an_embodiment_is_filled_in_order(tmp_path):
    root = write_lerobot(tmp_path / "unnamed", names=None, episodes=3, video=False)
    assert LeRobotSource(data_dir=root, embodiment="arm7").mapping.origin == "by position"


def test_damage_is_named_and_counted(copy, pool_encoder, tmp_path):
    next((copy / "videos" / "observation.images.top").rglob("*.mp4")).unlink()
    table = LeRobotSource(data_dir=copy).pairs("train")
    store = LatentStore(tmp_path / "store", pool_encoder.fingerprint, pool_encoder.latent)
    report = encode_tables([table], pool_encoder, store)
    assert len(report.quarantined) == report.encoded == len(table) + 2
    next((copy / "data").rglob("*.parquet")).write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match="parquet"):
        LeRobotSource(data_dir=copy).pairs("train")


def test_numbers_that_are_not_finite_are_set_aside_with_their_place(copy):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = next((copy / "data").rglob("*.parquet"))
    table = pq.read_table(path)
    actions = table["action"].to_pylist()
    actions[7][0] = float("nan")
    place = table.column_names.index("action")
    pq.write_table(table.set_column(place, "action", pa.array(actions, table["action"].type)), path)
    found = LeRobotSource(data_dir=copy).pairs("train")
    assert [q.item for q in found.quarantined] == ["data/chunk-000/file-000.parquet:5"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, ConfigError, "repo_id"),
        ({"repo_id": "nobody/nothing"}, DatasetError, "nobody/nothing"),
        ({"root": "/nowhere"}, DatasetError, "/nowhere"),
    ],
)
def test_a_dataset_that_is_nowhere(options, error, words, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    with pytest.raises(error, match=words):
        LeRobotSource(**options)


def test_a_dataset_at_lerobots_own_place_needs_its_name_only(video_root, monkeypatch):
    monkeypatch.setenv("HF_LEROBOT_HOME", str(video_root.parent))
    assert LeRobotSource(repo_id="video").root == video_root


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codebase_version": "v2.1"}, "convert_dataset_v21_to_v30"),
        ({"fps": None}, "Download"),
    ],
)
def test_other_formats_and_incomplete_descriptions(copy, change, words):
    path = copy / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DatasetError, match=words):
        LeRobotSource(data_dir=copy)


@pytest.mark.parametrize(
    "options", [{"classes": "verbs"}, {"gripper_open": "wide"}, {"action_keys": ("act",)}]
)
def test_choices_that_do_not_exist(video_root, options):
    with pytest.raises(UnknownNameError):
        LeRobotSource(data_dir=video_root, **options)


def test_a_stride_longer_than_every_episode(video_root):
    with pytest.raises(DatasetError, match="smaller stride"):
        LeRobotSource(data_dir=video_root, stride=50).pairs("val")
    with pytest.raises(ConfigError):
        LeRobotSource(data_dir=video_root, stride=0)


def test_too_few_episodes_for_the_splits_are_an_error_that_says_so(video_root, copy):
    source = LeRobotSource(data_dir=video_root)
    object.__setattr__(source.files, "episodes", source.files.episodes[:2])
    with pytest.raises(
        DatasetError, match=r"split test.*2 recordings.*1 in train, 1 in val, 0 in test\. Add episodes"
    ):
        source.pairs("test")
    info = copy / "meta" / "info.json"
    splits = {"train": "0:4", "val": "4:4", "test": "4:4"}
    info.write_text(json.dumps({**json.loads(info.read_text()), "splits": splits}))
    with pytest.raises(DatasetError, match=r"4 in train, 0 in val, 0 in test\. Correct the splits"):
        LeRobotSource(data_dir=copy).pairs("val")


def test_it_opens_by_key_with_every_option_of_its_config_file(video_root):
    import yaml

    from lary_policy.data.registry import list_sources, open_source
    from lary_policy.paths import configs_dir

    options = yaml.safe_load((configs_dir() / "source" / "lerobot.yaml").read_text())
    key = "lerobot"
    assert key in list_sources()
    given = {name: value for name, value in options.items() if value is not None}
    source = open_source(key, data_dir=video_root, protocol="native", **given)
    assert source.spec.key == "lerobot"
    atomic = open_source(key, data_dir=video_root, atomic={"threshold_m": 0.02})
    assert set(atomic.pairs("train").labels()) <= {
        "Forward",
        "Backward",
        "Left",
        "Right",
        "Up",
        "Down",
        "Open",
        "Close",
    }
