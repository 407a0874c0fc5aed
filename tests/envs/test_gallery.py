"""The pictures and rates of envs/README.md."""

from PIL import Image

from lary_envs.tools.gallery import (
    measure_expert,
    write_levels_picture,
    write_picture,
    write_tasks_picture,
)


def test_rate_counts_every_seed():
    rate = measure_expert("reach", range(10))
    assert (rate.task, rate.episodes, rate.ever, rate.at_end) == ("reach", 10, 10, 10)
    assert 10 <= rate.median_steps <= rate.max_steps <= 50


def test_picture_shows_three_cameras_side_by_side(tmp_path):
    write_picture("push", tmp_path / "images" / "push.png", step=2, image_px=40)
    with Image.open(tmp_path / "images" / "push.png") as image:
        assert image.size == (120, 40)
        low, high = image.convert("L").getextrema()
    assert high - low > 100


def test_levels_are_rows_and_seeds_columns(tmp_path):
    write_levels_picture("push", tmp_path / "levels.png", seeds=[0, 1], image_px=40)
    with Image.open(tmp_path / "levels.png") as image:
        assert image.size == (80, 120)
        rows = [image.crop((0, 40 * i, 40, 40 * (i + 1))).tobytes() for i in range(3)]
    assert len(set(rows)) == 3


def test_tasks_stand_in_rows(tmp_path):
    write_tasks_picture(["push", "reach", "push"], tmp_path / "tasks.png", step=1, image_px=40, columns=2)
    with Image.open(tmp_path / "tasks.png") as image:
        assert image.size == (80, 80)
        parts = [image.crop((x, y, x + 40, y + 40)).tobytes() for y in (0, 40) for x in (0, 40)]
    assert parts[0] == parts[2] != parts[1]
    assert set(parts[3]) == {0}
