"""Results are keyed by what frames, actions and labels are, not by what files are called."""

import os
import shutil

import numpy as np
import pytest
from larybench_files import make_calvin, make_clips, make_libero
from lerobot_files import write_lerobot
from PIL import Image
from video_files import moving_square, write_video

from lary_policy.data.integrity import content_digest, table_digest
from lary_policy.data.registry import open_source
from lary_policy.frames.digests import file_digest, remember_digests
from lary_policy.frames.frame import frame_id


def digest(root, key="libero", protocol="lary"):
    return content_digest(open_source(key, data_dir=root, protocol=protocol))


@pytest.fixture
def libero(tmp_path):
    make_libero(tmp_path / "a")
    return tmp_path / "a"


def change(path, values):
    """Correct a picture in place; the same size of the file, another time stamp."""
    Image.fromarray(values).save(path)
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))


def test_two_folders_of_the_same_names_with_other_pictures_are_two_datasets(libero, tmp_path):
    other = shutil.copytree(libero, tmp_path / "b")
    noise = np.random.default_rng(0)
    for path in sorted(other.rglob("*.png")):
        change(path, noise.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    ours, theirs = (
        open_source("libero", data_dir=root, protocol="lary").pairs("train") for root in (libero, other)
    )
    assert [row.label for row in ours.rows] == [row.label for row in theirs.rows]
    assert not {frame_id(f) for f in ours.frame_paths()} & {frame_id(f) for f in theirs.frame_paths()}
    assert table_digest(ours) != table_digest(theirs)
    assert digest(libero) != digest(other)


def test_a_copy_elsewhere_is_the_same_dataset(libero, tmp_path):
    assert digest(libero) == digest(shutil.copytree(libero, tmp_path / "somewhere" / "else"))


def test_a_picture_or_label_that_was_corrected_in_place_is_noticed(libero):
    found = {digest(libero)}
    change(next(libero.rglob("*start.png")), np.zeros((12, 12, 3), np.uint8))
    found.add(digest(libero))
    for csv in (libero / "data").glob("*.csv"):
        csv.write_text(csv.read_text().replace(",Up", ",Down"))
    found.add(digest(libero))
    assert len(found) == 3


def test_an_action_that_was_corrected_is_noticed(tmp_path):
    make_calvin(tmp_path, train=8)
    before = digest(tmp_path, "calvin")
    path = next((tmp_path / "regression").rglob("*.npy"))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # a bit of a mantissa
    path.write_bytes(data)
    assert digest(tmp_path, "calvin") != before


def test_a_video_that_was_corrected_is_noticed(tmp_path):
    make_clips(tmp_path)
    before = digest(tmp_path, "robot_1st")
    write_video(next(tmp_path.rglob("*.mp4")), moving_square(20, 32, 24, seed=77), gop=10)
    assert digest(tmp_path, "robot_1st") != before
    root = write_lerobot(tmp_path / "lerobot", episodes=3, steps=12)
    before, table = digest(root, "lerobot"), open_source("lerobot", data_dir=root).pairs("train")
    ids = [frame_id(frame) for frame in table.frame_paths()]
    video = next(root.rglob("*.mp4"))
    write_video(video, moving_square(39, seed=5), fps=20)
    assert digest(root, "lerobot") != before
    assert not set(ids) & {frame_id(frame) for frame in table.frame_paths()}


def test_a_frame_that_is_lost_is_noticed(libero):
    before = digest(libero)
    next(libero.rglob("*start.png")).unlink()
    assert digest(libero) != before


@pytest.fixture
def old_file(tmp_path):
    """A file that last changed an hour ago, so that its state says what is in it."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    hour_ago = path.stat().st_mtime_ns - 3600 * 10**9
    os.utime(path, ns=(hour_ago, hour_ago))
    yield path
    remember_digests(None)


def test_digests_are_remembered_across_runs_and_a_check_reads_the_file_all_the_same(old_file, tmp_path):
    remember_digests(tmp_path / "cache" / "digests.sqlite")
    first, facts = file_digest(old_file), old_file.stat()
    old_file.write_bytes(b"CONTENT")  # of the same size, time and inode: only reading it tells
    os.utime(old_file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    remember_digests(tmp_path / "cache" / "digests.sqlite")  # as a new run does
    assert file_digest(old_file) == first
    assert file_digest(old_file, trust=False) != first


def test_a_file_that_changed_or_was_replaced_is_read_anew(old_file, tmp_path):
    remember_digests(tmp_path / "digests.sqlite")
    first, facts = file_digest(old_file), old_file.stat()
    other = tmp_path / "other"
    other.write_bytes(b"replace")
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    other.replace(old_file)  # of the same size and time, another inode
    assert file_digest(old_file) != first


def test_a_damaged_memory_is_none(old_file, tmp_path):
    (tmp_path / "digests.sqlite").write_bytes(b"no data base" * 999)
    remember_digests(tmp_path / "digests.sqlite")
    assert file_digest(old_file) == file_digest(old_file, trust=False)
