"""Tiled videos, decoded again."""

from __future__ import annotations

import resource

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from lary_policy.errors import ShapeError, StoreError
from lary_policy.rollout.film import BORDER_PX, RUNNING_RGB, SUCCESS_RGB, Clip, Film, tile_video
from lary_policy.rollout.loop import Shots

TILE = 64


def film(worlds: int, success: list[list[bool]]) -> list[Clip]:
    """Return clips of plain worlds; world v has grey level 40 * (v + 1)."""
    return [
        Clip(
            torch.full((len(success), 16, 16, 3), 40 * (v + 1), dtype=torch.uint8),
            torch.tensor(success)[:, v],
        )
        for v in range(worlds)
    ]


def tile_of(frame, index: int, columns: int):
    row, column = divmod(index, columns)
    return frame[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE].astype(int)


def test_four_worlds_are_tiled_two_by_two_and_marked_while_they_succeed(tmp_path):
    success = [[False] * 4, [True, False, False, True], [False, False, False, True]]
    path = tile_video(film(4, success), tmp_path / "v" / "a.mp4", tile_px=TILE)
    assert path.read_bytes()[4:8] == b"ftyp"
    frames = imageio.imread(path, plugin="pyav")
    assert frames.shape == (3, 2 * TILE, 2 * TILE, 3)
    for frame, marks in zip(frames, success, strict=True):
        for world, mark in enumerate(marks):
            tile = tile_of(frame, world, 2)
            middle = tile[TILE // 2 - 8 : TILE // 2 + 8, TILE // 2 - 8 : TILE // 2 + 8]
            assert abs(middle.mean() - 40 * (world + 1)) < 8
            edge = tile[2 : BORDER_PX - 2, 8:-8].reshape(-1, 3).mean(0)
            wanted, other = (SUCCESS_RGB, RUNNING_RGB) if mark else (RUNNING_RGB, SUCCESS_RGB)
            assert np.abs(edge - wanted).max() < 25  # colour is stored at half the resolution, lossily
            assert np.abs(edge - wanted).sum() < np.abs(edge - other).sum()


@pytest.mark.parametrize(("worlds", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (3, 2, 2)])
def test_fewer_worlds_leave_black_tiles(tmp_path, worlds, rows, columns):
    path = tile_video(film(worlds, [[True] * worlds] * 2), tmp_path / "a.mp4", tile_px=TILE)
    frames = imageio.imread(path, plugin="pyav")
    assert frames.shape == (2, rows * TILE, columns * TILE, 3)
    for empty in range(worlds, rows * columns):
        assert tile_of(frames[0], empty, columns)[8:-8, 8:-8].max() < 20


def test_it_plays_in_real_time(tmp_path):
    kept = Film(tmp_path / "a.mp4", [7], every=2)
    kept.keep(
        [5, 7], Shots((1,), 2, [torch.zeros(1, 16, 16, 3, dtype=torch.uint8)] * 20, [torch.zeros(1)] * 20)
    )
    path = kept.write(tile_px=TILE, hz=20.0)
    assert imageio.immeta(path, plugin="pyav")["fps"] == 10
    assert imageio.immeta(path, plugin="pyav")["duration"] == pytest.approx(2.0)


def test_nothing_filmed_is_a_shape_error_and_writes_nothing(tmp_path):
    with pytest.raises(ShapeError, match="film"):
        tile_video([], tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_film_shows_its_seeds_whatever_waves_they_ran_in(tmp_path):
    def shots(*levels: int, steps: int = 3) -> Shots:
        frames = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(len(levels), 16, 16, 3)
        return Shots(tuple(range(len(levels))), 2, [frames] * steps, [torch.zeros(len(levels))] * steps)

    made = Film(tmp_path / "a.mp4", [1, 2, 3])
    assert made.shoot([4, 5]) is None
    assert made.shoot([1, 4, 2]) == Shots((0, 2), 2)
    made.keep([1, 2], shots(40, 80))
    with pytest.raises(ShapeError, match="none of 3"):
        made.write()
    resumed = Film(tmp_path / "a.mp4", [1, 2, 3])  # another process goes on
    assert resumed.missing() == (3,)
    assert resumed.shoot([2, 3]) == Shots((1,), 2)
    resumed.keep([3], shots(120, steps=1))
    frames = imageio.imread(resumed.write(tile_px=TILE), plugin="pyav")
    middle = [tile_of(frames[-1], i, 2)[8:-8, 8:-8].mean() for i in range(3)]
    assert middle == pytest.approx([40, 80, 120], abs=8)
    assert len(frames) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert resumed.missing() == ()
    resumed.restart()
    assert resumed.missing() == (1, 2, 3)


def test_a_damaged_clip_is_named(tmp_path):
    made = Film(tmp_path / "a.mp4", [1])
    (tmp_path / "a.clips").mkdir()
    (tmp_path / "a.clips" / "1.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(StoreError, match=r"1\.safetensors"):
        made.write()


def test_a_disk_that_takes_no_more_is_a_store_error_and_keeps_the_older_video(tmp_path):
    """The kernel's own refusal, not a patched function: what is written, and by whom, does not matter."""
    path = tile_video(film(1, [[False]] * 3), tmp_path / "a.mp4", tile_px=TILE)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(StoreError, match="finished parts are kept"):
            tile_video(film(1, [[True]] * 3), path, tile_px=TILE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
