"""Every source of the registry can be checked, and what we wrote is found changed, whatever changed in it."""

import shutil

import numpy as np
import pytest
from larybench_files import make_calvin, make_libero
from lerobot_files import write_lerobot
from mutations import relabel, swap
from PIL import Image
from video_files import moving_square, write_video

from lary_policy.data.atomic import AtomicConfig
from lary_policy.data.registry import open_source
from lary_policy.data.simulated.collect import collect_demonstrations
from lary_policy.data.verify import verify_source


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
