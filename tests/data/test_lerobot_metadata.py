"""What LeRobot's `meta/info.json` says, in every spelling that datasets have, and what it must not say."""

import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_files import POSE_NAMES, write_lerobot
from PIL import Image

from lary_policy.data.lerobot.files import LeRobotFiles
from lary_policy.data.lerobot.metadata import feature_names, is_depth
from lary_policy.data.registry import open_source
from lary_policy.errors import ConfigError, DatasetError, FrameFormatError, UnsafePathError
from lary_policy.frames.frame import decode_frame
from lary_policy.frames.stored import ParquetFrame

TWO_ARMS = ("left_x", "left_gripper", "right_x", "right_gripper")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_lerobot(tmp_path_factory.mktemp("meta") / "set", episodes=3, steps=12)


@pytest.fixture
def copy(root, tmp_path):
    return shutil.copytree(root, tmp_path / "copy")


def change_info(root, change):
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


@pytest.mark.parametrize(
    "names",
    [
        list(TWO_ARMS),
        [list(TWO_ARMS)],
        {"motors": list(TWO_ARMS)},
        {"left": list(TWO_ARMS[:2]), "right": list(TWO_ARMS[2:])},
        {"axes": {"motors": [list(TWO_ARMS)]}},
        {name: place for place, name in reversed(list(enumerate(TWO_ARMS)))},
    ],
)
def test_names_are_read_in_every_spelling(names):
    assert feature_names({"names": names, "shape": [4]}) == TWO_ARMS


@pytest.mark.parametrize(
    "names",
    [
        None,
        [],
        {},
        ["motors"],
        list(TWO_ARMS[:3]),
        ["a"] * 4,
        [1, 2, 3, 4],
        "abcd",
        {"a": 0, "b": 0, "c": 1, "d": 2},
    ],
)
def test_what_names_nothing_is_no_name(names):
    assert feature_names({"names": names, "shape": [4]}) is None
    assert feature_names(None) is None


@pytest.mark.parametrize("names", [{"motors": list(POSE_NAMES)}, [list(POSE_NAMES)]])
def test_a_source_reads_them_the_same_way(copy, names):
    def change(info):
        for feature in ("action", "observation.state"):
            info["features"][feature]["names"] = names

    before = open_source("lerobot", data_dir=copy).mapping
    change_info(copy, change)
    source = open_source("lerobot", data_dir=copy)
    assert source.mapping == before
    assert source.has_states


@pytest.mark.parametrize(
    "marks",
    [
        {"info": {"is_depth_map": True}},
        {"info": {"video.is_depth_map": True}},
        {"video_info": {"video.is_depth_map": True}},
        {"is_depth_map": True},
    ],
)
def test_depth_maps_are_no_colour_cameras_however_they_are_marked(copy, marks):
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

    change_info(copy, lambda info: info["features"]["observation.images.top"].update(marks))
    files = LeRobotFiles.read(copy)
    assert is_depth(files.features["observation.images.top"])
    assert files.cameras() == ()
    if "is_depth_map" not in marks:
        meta = LeRobotDatasetMetadata("tests/tiny", root=copy)
        assert meta.depth_keys == ["observation.images.top"]
    with pytest.raises(DatasetError, match="a depth map"):
        open_source("lerobot", data_dir=copy, cameras=["top"])
    with pytest.raises(DatasetError, match="images or videos"):
        open_source("lerobot", data_dir=copy)


@pytest.mark.parametrize(("mode", "dtype"), [("I;16", np.uint16), ("F", np.float32), ("I", np.int32)])
def test_images_of_more_than_8_bits_are_refused_by_name(tmp_path, mode, dtype):
    picture = Image.fromarray((np.arange(64).reshape(8, 8) * 100).astype(dtype))
    buffer = io.BytesIO()
    picture.save(buffer, format="TIFF" if mode == "F" else "PNG")
    pq.write_table(pa.table({"top": [{"bytes": buffer.getvalue(), "path": None}]}), tmp_path / "t.parquet")
    with pytest.raises(FrameFormatError, match="more than 8 bits"):
        decode_frame(ParquetFrame(tmp_path / "t.parquet", "top", 0))


def test_videos_of_more_than_8_bits_of_grey_are_refused_by_name(tmp_path):
    import av

    with av.open(str(tmp_path / "d.mp4"), "w") as container:
        stream = container.add_stream("libx265", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "gray12le"
        for _ in range(4):
            depth = av.VideoFrame.from_ndarray(np.full((64, 64), 4000, np.uint16), format="gray12le")
            container.mux(stream.encode(depth))
        container.mux(stream.encode(None))
    from lary_policy.frames.video import read_video_frames

    with pytest.raises(FrameFormatError, match="a depth map"):
        read_video_frames(tmp_path / "d.mp4", [0])


def test_the_hubs_cache_of_links_is_a_dataset_like_any_other(root, tmp_path, monkeypatch):
    """LeRobot's own snapshot: every file is a link to a blob; found by name alone without a network."""
    home = tmp_path / "home"
    repo = home / "hub" / "datasets--tests--tiny"
    snapshot, blobs = repo / "snapshots" / ("a" * 40), repo / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(p for p in root.rglob("*") if p.is_file())):
        shutil.copy(path, blobs / str(number))
        link = snapshot / path.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / str(number))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    plain = open_source("lerobot", data_dir=root).pairs("train")
    monkeypatch.setenv("HF_LEROBOT_HOME", str(home))
    for options in (
        {"root": snapshot},
        {"repo_id": "tests/tiny"},
        {"repo_id": "tests/tiny", "revision": "a" * 40},
    ):
        linked = open_source("lerobot", **options).pairs("train")
        assert linked.actions().equal(plain.actions())
        for ours, theirs in zip(linked.frame_paths(), plain.frame_paths(), strict=True):
            assert decode_frame(ours).equal(decode_frame(theirs))
    shutil.rmtree(repo / "refs")
    assert open_source("lerobot", repo_id="tests/tiny").root == snapshot


def test_videos_on_another_disk_may_be_linked(copy, tmp_path):
    shutil.move(copy / "videos", tmp_path / "disk")
    (copy / "videos").symlink_to(tmp_path / "disk")
    table = open_source("lerobot", data_dir=copy).pairs("train")
    assert decode_frame(table.rows[0].src_frames[0]).shape == (48, 64, 3)


@pytest.mark.parametrize(
    "template",
    [
        "/etc/{video_key}/{chunk_index}",
        "../{video_key}/file-{file_index:03d}.mp4",
        "{video_key.__class__}",
        "{video_key!r:>999999999}",
        "{chunk_index:999999999d}",
        "{other}",
        "{",
        7,
        None,
    ],
)
def test_paths_inside_the_description_stay_inside_the_folder(copy, template):
    change_info(copy, lambda info: info.update(video_path=template))
    with pytest.raises((UnsafePathError, DatasetError)):
        open_source("lerobot", data_dir=copy)


def test_an_older_format_is_converted_where_it_is(copy):
    change_info(copy, lambda info: info.update(codebase_version="v2.1"))
    with pytest.raises(DatasetError, match=rf"--repo-id=\S+ --root={copy} --push-to-hub=false$"):
        open_source("lerobot", data_dir=copy)


def test_episodes_without_a_row_are_counted(tmp_path):
    root = write_lerobot(tmp_path / "short", episodes=10, steps=1, fps=20, video=False)  # 1, 2, ... 10 frames
    source = open_source("lerobot", data_dir=root, stride=5)
    told = {}
    for split in ("train", "val", "test"):
        try:
            told |= {q.item: q.reason for q in source.pairs(split).quarantined}
        except DatasetError as error:  # no row at all in this split
            told |= {f"episode {e.number}": str(error) for e in source.episodes(split)}
    assert set(told) == {f"episode {n}" for n in range(5)}
    assert all("fewer than the 6 of a pair" in reason for reason in told.values())


def test_a_length_of_days_sets_its_own_episode_aside(copy):
    path = next((copy / "meta/episodes").rglob("*.parquet"))
    rows = pq.read_table(path).to_pylist()
    rows[0]["length"] = 10**12
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)
    source = open_source("lerobot", data_dir=copy)
    with pytest.raises(DatasetError, match="meta/episodes states 1000000000000"):
        source.pairs("train")  # of this episode alone
    assert len(source.pairs("val")) > 0


def test_rows_without_end_are_refused(copy, monkeypatch):
    monkeypatch.setattr("lary_policy.data.lerobot.files.MAX_ROWS", 20)
    with pytest.raises(DatasetError, match="rows in a table, of at most 20"):
        open_source("lerobot", data_dir=copy).pairs("train")


def edit_table(root, change):
    path = next((root / "data").rglob("*.parquet"))
    pq.write_table(change(pq.read_table(path)), path)


def test_one_number_that_is_none_names_its_episode(copy):
    def change(table):
        actions = table["action"].to_pylist()
        actions[7][0] = float("nan")
        return table.set_column(
            table.column_names.index("action"), "action", pa.array(actions, table["action"].type)
        )

    edit_table(copy, change)
    (aside,) = open_source("lerobot", data_dir=copy).pairs("train").quarantined
    assert "episode 0, frames 5 to 9" in aside.reason
    files = LeRobotFiles.read(copy)
    assert files.numbers() == ("action", "observation.state")
    with pytest.raises(DatasetError, match=r"episode 0, frame 7\..*delete_episodes"):
        files.require_finite(files.numbers())
    files.require_finite(files.numbers(), episodes=[1, 2])


def test_a_gripper_without_any_number_and_a_task_that_is_not_there(copy):
    def no_gripper(table):
        actions = [[*row[:-1], float("nan")] for row in table["action"].to_pylist()]
        return table.set_column(
            table.column_names.index("action"), "action", pa.array(actions, table["action"].type)
        )

    edit_table(copy, no_gripper)
    with pytest.raises(DatasetError, match="not finite"):
        open_source("lerobot", data_dir=copy).pairs("train")

    def other_task(table):
        place = table.column_names.index("task_index")
        return table.set_column(place, "task_index", pa.array([7] * len(table), pa.int64()))

    edit_table(copy, other_task)
    with pytest.raises(DatasetError, match=r"task 7, which meta/tasks\.parquet does not have"):
        open_source("lerobot", data_dir=copy, classes="tasks").pairs("train")


def put(column, change):
    """Change the values of a column of the steps."""

    def edit(table):
        kind = table[column].type
        values = change(table[column].to_pylist())
        kind = (
            pa.list_(pa.string())
            if kind != (made := pa.array(values).type) and "string" in str(made)
            else kind
        )
        return table.set_column(table.column_names.index(column), column, pa.array(values, kind))

    return edit


INFOS = {
    "fps of true": lambda info: info.update(fps=True),
    "a width of a trillion": lambda info: info["features"]["action"].update(shape=[10**12]),
    "a width in words": lambda info: info["features"]["action"].update(shape=["seven"]),
    "splits that go back": lambda info: info.update(splits={"train": "3:1"}),
    "splits from the end": lambda info: info.update(splits={"train": "-2:3"}),
    "the same episodes in every split": lambda info: info.update(
        splits={"train": "0:3", "val": "0:3", "test": "0:3"}),
    "a front that is two cameras": lambda info: info["features"].update(
        front=info["features"]["observation.images.top"],
        **{"observation.images.front": info["features"]["observation.images.top"]}),
    "episodes that are not there": lambda info: info.update(total_episodes=99),
    "an episode in two splits": lambda info: info.update(
        splits={"train": "0:2", "val": "1:2", "test": "2:3"}),
}  # fmt: skip
STEPS = {
    "times that go back": (put("timestamp", lambda v: v[::-1]), "do not ascend"),
    "one time for all": (put("timestamp", lambda v: [0.0] * len(v)), "do not ascend"),
    "numbers in words": (put("action", lambda v: [list(map(str, row)) for row in v]), "in place of numbers"),
}


@pytest.mark.parametrize("name", INFOS)
def test_descriptions_that_contradict_themselves_are_refused(copy, name):
    change_info(copy, INFOS[name])
    with pytest.raises(
        DatasetError, match=r"fps True|of shape|split train|common episodes|called alike|json states 99"
    ):
        open_source("lerobot", data_dir=copy)


def test_what_is_named_twice_is_refused(copy):
    text = (copy / "meta/info.json").read_text()
    (copy / "meta/info.json").write_text(text.replace("{", '{"fps": 10,', 1))
    with pytest.raises(DatasetError, match="the key 'fps' twice"):
        open_source("lerobot", data_dir=copy)
    (copy / "meta/info.json").write_text(text)
    for cameras in (["top", "top"], ["top", "observation.images.top"]):
        with pytest.raises(ConfigError, match=r"cameras, each once; got \[top, top\]"):
            open_source("lerobot", data_dir=copy, cameras=cameras)
    tasks = pq.read_table(copy / "meta/tasks.parquet")
    pq.write_table(pa.concat_tables([tasks, tasks]), copy / "meta/tasks.parquet")
    with pytest.raises(DatasetError, match=r"a task number that stands in tasks\.parquet twice"):
        open_source("lerobot", data_dir=copy)


@pytest.mark.parametrize("name", STEPS)
def test_steps_that_contradict_themselves_are_set_aside(copy, name):
    edit_table(copy, STEPS[name][0])
    with pytest.raises(DatasetError, match=STEPS[name][1]):
        open_source("lerobot", data_dir=copy).pairs("train")
