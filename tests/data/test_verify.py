"""Every source of the registry can be checked, and what we wrote is found changed, whatever changed in it."""

import json
import shutil

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from larybench_files import make_calvin, make_libero
from lerobot_files import write_lerobot
from mutations import relabel, swap
from PIL import Image
from video_files import moving_square, write_video

from lary_policy.cli.verify import verify_outputs
from lary_policy.data.atomic import AtomicConfig
from lary_policy.data.lerobot.to_lerobot import export_demonstrations
from lary_policy.data.registry import open_source
from lary_policy.data.simulated.collect import collect_demonstrations
from lary_policy.data.verify import verify_source
from lary_policy.errors import LaryPolicyError


def places(report):
    return {(problem.where, problem.item) for problem in report.problems}


@pytest.fixture(scope="module")
def reach(tmp_path_factory):
    root = tmp_path_factory.mktemp("verify") / "reach"
    splits = {"train": [0], "val": [1], "test": [2]}
    collect_demonstrations(root, "reach", splits=splits, image_px=32, num_worlds=3)
    return root


@pytest.fixture
def copy(reach, tmp_path):
    return shutil.copytree(reach, tmp_path / "reach")


def check(root):
    return verify_source(open_source("simulated", data_dir=root), workers=0)


def test_demonstrations_as_they_were_written_are_right_and_wholly_verifiable(reach):
    report = check(reach)
    assert (report.problems, report.unverifiable) == ((), ())


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def integers(path):
    np.save(path, (np.load(path) * 100).astype(np.int16))


CHUNK = "ep_0/action_000000to000004.npy"
CHANGES = {
    "a bit of the mantissa of an action": (lambda r: flip(r / f"actions/{CHUNK}", -2), "actions"),
    "a bit of the mantissa of a pose": (lambda r: flip(r / "states/ep_0/state_000005.npy", -2), "states"),
    "two valid frames in each other's place": (
        lambda r: swap(r / "images/ep_0/frame_000000.png", r / "images/ep_0/frame_000005.png"), "images"),
    "another valid label": (lambda r: relabel(r / "reach_metadata_train.csv"), "reach_metadata_train.csv"),
    "actions as whole numbers": (lambda r: integers(r / f"actions/{CHUNK}"), "actions"),
    "another seed": (lambda r: (r / "episodes.json").write_text(
        (r / "episodes.json").read_text().replace('"seed": 1', '"seed": 9')), "episodes.json"),
    "a file more": (lambda r: (r / "images" / "more.png").write_bytes(b""), "images/more.png"),
    "a file less": (lambda r: (r / "states/ep_1/state_000000.npy").unlink(), "states"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_what_we_wrote_is_found_and_named(copy, change):
    make, item = CHANGES[change]
    make(copy)
    assert any(where == "checksums" and name.startswith(item) for where, name in places(check(copy)))


@pytest.fixture(scope="module")
def exports(reach):
    """The demonstrations as LeRobot datasets of pictures and of videos, beside each other."""
    for kind in ("images", "video"):
        export_demonstrations(reach, reach.parent / "exports" / kind, video=kind == "video")
    return reach.parent / "exports"


def cells(path, column, change):
    """Change the values of a column of a table, which keeps its type."""
    table = pq.read_table(path)
    values = table.column(column).to_pylist()
    place = table.column_names.index(column)
    changed = pa.array(change(values), type=table.schema.field(column).type)
    pq.write_table(table.set_column(place, table.schema.field(column), changed), path)


def swapped(values):
    return [values[1], values[0], *values[2:]]


def nudged(values):
    return [[values[0][0] + 1e-4, *values[0][1:]], *values[1:]]


def digit(path, key):
    """Change the first digit behind a key."""
    text = path.read_text()
    at = next(i for i in range(text.index(f'"{key}"') + len(key) + 2, len(text)) if text[i].isdigit())
    path.write_text(f"{text[:at]}{(int(text[at]) + 1) % 10}{text[at + 1 :]}")


def reencoded(path):
    """Another video of as many frames."""
    frames = np.stack([f.to_ndarray(format="rgb24") for f in av.open(str(path)).decode(video=0)])
    write_video(path, frames[::-1], fps=20)


STEPS, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
SUMS, VIDEO = "meta/lary_checksums.json", "videos/observation.images.front/chunk-000/file-000.mp4"
EXPORT_CHANGES = {
    "an action a tenth of a millimetre off": (STEPS, lambda p: cells(p, "action", nudged)),
    "a pose a tenth of a millimetre off": (STEPS, lambda p: cells(p, "observation.state", nudged)),
    "two pictures in each other's place": (STEPS, lambda p: cells(p, "observation.images.front", swapped)),
    "two times in each other's place": (STEPS, lambda p: cells(p, "timestamp", swapped)),
    "a step of another episode": (STEPS, lambda p: cells(p, "episode_index", lambda v: [*v[:-1], 0])),
    "a bit of the steps": (STEPS, lambda p: flip(p, 300)),
    "no steps": (STEPS, lambda p: p.unlink()),
    "another task": ("meta/tasks.parquet", lambda p: cells(p, "task", lambda v: ["Push it."])),
    "an episode a step shorter": (EPISODES, lambda p: cells(p, "length", lambda v: [v[0] - 1, *v[1:]])),
    "another rate": ("meta/info.json", lambda p: digit(p, "fps")),
    "other splits": ("meta/info.json", lambda p: digit(p, "train")),
    "another mean": ("meta/stats.json", lambda p: digit(p, "mean")),
    "another seed": ("meta/lary.json", lambda p: digit(p, "seed")),
    "another digest of what it was made of": ("meta/lary.json", lambda p: digit(p, "content")),
    "a checksum": (SUMS, lambda p: digit(p, STEPS)),
    "no checksums": (SUMS, lambda p: p.unlink()),
    "a file more": ("meta/info.json", lambda p: shutil.copy(p, p.with_name("more.json"))),
    "a bit of a video": (VIDEO, lambda p: flip(p, -100)),
    "a video shown backwards": (VIDEO, reencoded),
    "no video": (VIDEO, lambda p: p.unlink()),
}  # fmt: skip


@pytest.mark.parametrize("change", EXPORT_CHANGES)
def test_any_change_of_an_export_is_found_and_named(exports, tmp_path, change, capsys):
    item, make = EXPORT_CHANGES[change]
    root = shutil.copytree(exports / ("video" if item == VIDEO else "images"), tmp_path / "out" / "set")
    make(root / item)
    assert not verify_outputs(tmp_path / "out", workers=0, timeout_s=30.0)
    problems = json.loads(next((tmp_path / "out").glob("verify-*.json")).read_text())[-1]["problems"]
    assert any(one["item"] in (item, STEPS, SUMS, "meta/more.json") for one in problems)
    try:  # and as a source, where nothing but the dataset is looked at
        found = verify_source(open_source("lerobot", data_dir=root), workers=0)
    except LaryPolicyError:
        return  # it does not even open
    assert not found.ok


def test_exports_as_they_were_written_are_right(exports, capsys):
    assert verify_outputs(exports.parent, workers=0, timeout_s=30.0)
    for kind in ("images", "video"):
        report = verify_source(open_source("lerobot", data_dir=exports / kind), workers=0)
        assert (report.problems, report.unverifiable) == ((), ())


def test_unfinished_files_of_a_killed_process_are_never_read(copy):
    (copy / ".reach_metadata_val.csv.tmp-abcdefgh.csv").write_text(
        (copy / "reach_metadata_train.csv").read_text()
    )
    assert check(copy).ok


def test_whole_numbers_as_actions_are_named_in_files_of_others(tmp_path):
    make_calvin(tmp_path)
    source = open_source("calvin", data_dir=tmp_path, protocol="lary")
    integers(next(tmp_path.rglob("*.npy")))
    report = verify_source(source, workers=0)
    assert any("int16" in problem.reason for problem in report.problems)
    assert "No checksums" in report.unverifiable[0]


def test_a_lerobot_dataset_is_checked_completely(tmp_path):
    root = write_lerobot(tmp_path / "set", episodes=3, steps=12)
    source = open_source("lerobot", data_dir=root)
    good = verify_source(source, workers=0)
    assert good.problems == ()
    assert good.checked == {"splits": 3, "rows": 6, "frames": 9, "episodes": 3, "videos": 1}
    video = next(root.rglob("*.mp4"))
    write_video(video, moving_square(20), fps=20)  # episodes have 12 + 13 + 14 frames
    found = verify_source(source, workers=0)
    assert all("nearest at" in problem.reason for problem in found.problems)
    assert len(found.problems) == 4  # frames 22, 25, 30 and 35
    video.unlink()
    assert ("videos", str(video)) in places(verify_source(source, workers=0))


def test_episodes_that_show_the_same_are_found_in_two_splits(tmp_path):
    root = write_lerobot(tmp_path / "set", episodes=3, steps=12, video=False)
    source = open_source("lerobot", data_dir=root)
    report = verify_source(source, workers=0)
    assert report.ok
    twice = open_source("lerobot", data_dir=root)
    twice.episodes = lambda split: source.episodes("train")
    assert {"leakage"} == {problem.where for problem in verify_source(twice, workers=0).problems}


def test_primitives_and_classes_are_checked_as_what_they_are_made_of(tmp_path):
    make_calvin(tmp_path / "calvin", train=8)
    atomic = open_source(
        "calvin", data_dir=tmp_path / "calvin", protocol="lary", atomic=AtomicConfig(threshold_m=0.05)
    )
    assert verify_source(atomic, workers=0, limit=3).checked["rows"] == 6
    make_libero(tmp_path / "libero")
    source = open_source("libero", data_dir=tmp_path / "libero", protocol="lary")
    Image.new("RGB", (12, 12)).save(next((tmp_path / "libero").rglob("*start.png")))
    assert verify_source(source, workers=0).checked["images"] == 36
