"""The pictures and rates of envs/README.md."""

from PIL import Image

from lary_envs.gallery import measure_expert, write_picture


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
