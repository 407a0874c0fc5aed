"""Tiled videos, decoded again."""

from __future__ import annotations

import resource

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from lary_policy.errors import ShapeError, StoreError
from lary_policy.rollout.film import (
    BORDER_PX,
    FILM_PX,
    RUNNING_RGB,
    SUCCESS_RGB,
    Clip,
    Film,
    choose_episodes,
    film_speed,
    tile_video,
)
from lary_policy.types import EpisodeResult

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


@pytest.mark.parametrize(
    ("worlds", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 2, 2), (6, 2, 3)]
)
def test_no_tile_is_left_over(tmp_path, worlds, rows, columns):
    path = tile_video(film(worlds, [[True] * worlds] * 2), tmp_path / "a.mp4", tile_px=TILE)
    frames = imageio.imread(path, plugin="pyav")
    assert frames.shape == (2, rows * TILE, columns * TILE, 3)
    for world in range(worlds):
        assert abs(tile_of(frames[0], world, columns)[8:-8, 8:-8].mean() - 40 * (world + 1)) < 8


def test_a_gap_that_stays_is_white(tmp_path):
    """Of six chosen episodes one may end otherwise when it is repeated."""
    path = tile_video(film(5, [[True] * 5] * 2), tmp_path / "a.mp4", tile_px=TILE)
    assert tile_of(imageio.imread(path, plugin="pyav")[0], 5, 3)[8:-8, 8:-8].min() > 235


def test_nothing_filmed_is_a_shape_error_and_writes_nothing(tmp_path):
    with pytest.raises(ShapeError, match="film"):
        tile_video([], tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


class Ramp:
    """Worlds that count their steps, show the count, and succeed once it passes the seed."""

    device, control_hz = torch.device("cpu"), 20.0

    def __init__(self, count: int, late: int = 0) -> None:
        self._count, self._late = count, late

    def reset(self, seeds):
        self._seeds, self._value = torch.tensor(seeds), torch.zeros(len(seeds))

    def step(self, commands, *, validate=True):
        self._value += commands[:, 0]

    def frames(self, worlds):
        level = self._value[worlds].to(torch.uint8)
        return level[:, None, None, None, None].expand(len(worlds), 2, 16, 16, 3)

    def success(self):
        return self._value >= self._seeds + self._late

    def close(self):
        self._count = 0


def episode(seed: int, steps: int, success: bool) -> EpisodeResult:
    return EpisodeResult(seed, success, success, steps, seed if success else None, None, 0.0, float(success))


def test_a_film_shows_its_seeds_whatever_waves_they_ran_in(tmp_path):
    made = Film(tmp_path / "a.mp4", every=2)
    made.keep([3, 9], torch.full((8, 2, 1), 10.0))
    assert made.missing([3, 9, 12]) == (12,)
    resumed = Film(tmp_path / "a.mp4", every=2)  # another process goes on
    resumed.keep([12], torch.full((8, 1, 1), 3.0))
    episodes = [episode(3, 7, True), episode(9, 0, False), episode(12, 3, False)]  # 9 never moved
    assert resumed.shoot(episodes, Ramp) == (3, 12)
    frames = imageio.imread(resumed.path, plugin="pyav")
    assert imageio.immeta(resumed.path, plugin="pyav")["fps"] == 10
    assert frames.shape == (5, FILM_PX, 2 * FILM_PX, 3)  # steps 0, 2, 4, 6 and the end after 7
    middle = np.s_[80:-80, 80 : FILM_PX - 80]
    assert [f[middle].mean() for f in frames] == pytest.approx([0, 20, 40, 60, 70], abs=8)
    last = frames[-1][80:-80, FILM_PX + 80 : -80].mean()
    assert last == pytest.approx(9, abs=8)  # the shorter one stays as it ended
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert resumed.missing([3, 9, 12]) == ()
    resumed.restart()
    assert resumed.missing([3, 9, 12]) == (3, 9, 12)


@pytest.mark.parametrize(
    ("hz", "fps", "frames", "speed"),
    [(5.0, 5, 11, 1.0), (20.0, 10, 21, 1.0), (30.0, 10, 21, 1.0), (50.0, 12, 51, 0.5), (80.0, 10, 41, 0.5)],
)
def test_a_film_of_two_seconds_plays_in_real_time_or_at_half_speed(
    tmp_path, monkeypatch, hz, fps, frames, speed
):
    monkeypatch.setattr(Ramp, "control_hz", hz)
    steps, made, told = round(2 * hz), Film(tmp_path / "a.mp4"), []
    made.keep([3], torch.ones(steps, 1, 1))
    made.shoot([episode(3, steps, True)], Ramp, lambda done, total: told.append((done, total)))
    assert imageio.immeta(made.path, plugin="pyav")["fps"] == fps
    assert len(imageio.imread(made.path, plugin="pyav")) == frames
    assert film_speed(hz) == speed
    assert (frames - 1) / fps == pytest.approx(2 / speed, rel=0.05)
    assert told[-1] == (steps, steps)


def test_an_episode_that_ends_otherwise_when_repeated_is_not_shown(tmp_path):
    made = Film(tmp_path / "a.mp4")
    made.keep([3, 8], torch.ones(8, 2, 1))
    assert made.shoot([episode(3, 8, True), episode(8, 8, True)], lambda n: Ramp(n, late=2)) == (3,)


@pytest.mark.parametrize(
    ("outcomes", "chosen"),
    [
        ("+++++-----", "+++---"),
        ("+" * 9, "+++"),
        ("-" * 9 + "+", "+---"),
        ("+-", "+-"),
        ("", ""),
        ("+++--", "++--"),
        ("-----++", "++--"),
    ],
)
def test_both_outcomes_are_chosen_where_there_are_both_and_leave_no_gap(outcomes, chosen):
    found = choose_episodes([episode(n, 5, mark == "+") for n, mark in enumerate(outcomes)])
    assert "".join("-+"[e.success] for e in found) == chosen


def test_a_film_is_short_however_long_episodes_are():
    """MetaWorld's failures last 500 steps, its successes about 90."""
    episodes = [episode(n, 90, True) for n in range(5)] + [episode(n, 500, False) for n in range(5, 9)]
    assert [e.seed for e in choose_episodes(episodes)] == [0, 1, 5]
    assert [e.seed for e in choose_episodes(episodes[5:])] == [5, 6]


def test_damaged_commands_are_named(tmp_path):
    made = Film(tmp_path / "a.mp4")
    (tmp_path / "a.commands").mkdir()
    (tmp_path / "a.commands" / "1.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(StoreError, match=r"1\.safetensors"):
        made.shoot([episode(1, 3, True)], Ramp)


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
