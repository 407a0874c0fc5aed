"""Paths stay inside their root and files are replaced whole or not at all."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from lary_policy.data.layout import image_folder, metadata_name
from lary_policy.errors import StoreError, UnsafePathError
from lary_policy.paths import (
    atomic_write,
    configs_dir,
    parse_json,
    parse_yaml,
    plain_name,
    resolve_inside,
    sweep_temporaries,
    visible_files,
)


@pytest.mark.parametrize("bad", ["../x", "a/../../x", "/etc/passwd", "a/.."])
def test_paths_that_leave_the_root_are_refused(tmp_path, bad):
    with pytest.raises(UnsafePathError, match="inside"):
        resolve_inside(tmp_path, bad)


def test_link_out_of_the_root_is_refused(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(UnsafePathError):
        resolve_inside(root, "link/secret.png")


def test_a_link_to_itself_leads_nowhere(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for name in ("loop", "loop/x"):
        with pytest.raises(UnsafePathError):
            resolve_inside(tmp_path, name)


def test_inner_path_resolves(tmp_path):
    assert resolve_inside(tmp_path, "images/ep_1/frame.png") == tmp_path.resolve() / "images/ep_1/frame.png"


@pytest.mark.parametrize(
    "bad", ["", ".", "..", ".hidden", "a/b", "a/", "/a", "a\nb", "a\x1b[31m", "a\0b", "\udc80"]
)
def test_names_of_files_stay_in_their_folder_and_on_their_line(bad):
    names = {
        "a camera": lambda: image_folder(1, bad),
        "a dataset": lambda: metadata_name(bad, "train"),
        "a split": lambda: metadata_name("reach", bad),
        "a run": lambda: plain_name("a run", bad),
    }
    for what, make in names.items():
        with pytest.raises(UnsafePathError, match=f"expected {what} as a plain name"):
            make()


def test_names_of_all_languages_are_plain():
    for good in ("a b", "データ", "x.1", "~"):
        assert plain_name("a run", good) == good


def test_a_key_that_stands_twice_is_an_error_however_deep():
    for text in ('{"a": 1, "a": 1}', '[{"b": {"x": 1, "y": 2, "x": 3}}]'):
        for parse in (parse_json, parse_yaml):
            with pytest.raises(ValueError, match=r"the key '[ax]' twice"):
                parse(text)
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: {<<: *a}")["b"] == {"x": 3, "y": 2}
    assert parse_json('{"a": [{"b": 1}, {"b": 1}]}') == {"a": [{"b": 1}, {"b": 1}]}


def test_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_full_disk_is_a_named_error_and_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    target.write_text("old")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left") as caught, atomic_write(target) as temporary:
        temporary.write_text("new")
    assert "Free disk space" in caught.value.fix
    assert target.read_text() == "old"


def test_configs_are_found():
    assert (configs_dir() / "suite" / "quick.yaml").is_file()


def test_what_killed_writers_left_is_swept_and_what_is_being_written_stays(tmp_path):
    (tmp_path / "below" / "two").mkdir(parents=True)
    left, foreign = (tmp_path / f".a.csv.tmp-{name}.csv" for name in ("abcdefgh", "UPPER"))
    below, deep = (tmp_path / place / left.name for place in ("below", "below/two"))
    for path in (left, foreign, below, deep):
        path.write_text("half")
    with atomic_write(tmp_path / "a.csv") as busy:
        sweep_temporaries(tmp_path, again=True, levels=1)
        assert busy.exists()
        busy.write_text("whole")
    assert {p.name for p in tmp_path.iterdir()} == {foreign.name, "a.csv", "below"}
    assert not below.exists()
    assert deep.exists()
    assert [p.name for p in visible_files(tmp_path, "*.csv")] == ["a.csv"]


def test_a_sweep_between_making_and_locking_a_file_costs_its_writer_nothing(tmp_path, monkeypatch):
    """The moment in which an unfinished file looks left over: another process removes it just then."""
    made, swept = tempfile.mkstemp, []

    def make(**where):
        handle, name = made(**where)
        if len(swept) < 3:
            sweep_temporaries(tmp_path, again=True)
            swept.append(name)
            assert not Path(name).exists()
        return handle, name

    monkeypatch.setattr(tempfile, "mkstemp", make)
    with atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "a.json").read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert len(swept) == 3
