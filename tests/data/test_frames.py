import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from lary_policy.errors import FrameFormatError
from lary_policy.frames.frame import decode_frame, frame_id


@pytest.fixture
def pixels():
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    return np.stack(
        [np.tile(ramp, (32, 1)), np.tile(ramp[:, None], (1, 32)), np.full((32, 32), 7, np.uint8)], -1
    )


def test_id_is_the_sha256_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert frame_id(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_png_decodes_to_the_very_pixels(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    frame = decode_frame(tmp_path / "a.png")
    assert frame.dtype == torch.uint8
    np.testing.assert_array_equal(frame.numpy(), pixels)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_modes_become_rgb(tmp_path, pixels, mode):
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    assert decode_frame(tmp_path / "a.png").shape == (32, 32, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.97])
def test_truncated_images_are_refused(tmp_path, pixels, suffix, share):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(FrameFormatError, match="bytes that do not decode"):
        decode_frame(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_damage_never_escapes_as_a_foreign_exception(tmp_path, pixels, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path)
    data, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.choice(len(data), 3, replace=False):
            damaged[place] ^= rng.integers(1, 256)
        path.write_bytes(damaged)
        try:
            assert decode_frame(path).shape[-1] == 3
        except FrameFormatError:
            refused += 1
    assert refused == 300 or suffix != "png"  # only PNG has checksums


def test_missing_file_and_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(FrameFormatError):
            frame_id(path)
        with pytest.raises(FrameFormatError):
            decode_frame(path)
