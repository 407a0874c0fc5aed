"""The input pipelines against the image libraries they stand for."""

import numpy as np
import pytest
import torch
from PIL import Image

from lary_policy.encoders import Preprocess, encoder_spec, list_encoders, prepare_frames

SIZES = [(120, 160), (240, 320), (480, 640), (300, 224), (112, 112)]


def _levels(frame: torch.Tensor, antialias: bool, image_px: int = 224) -> np.ndarray:
    """Return the resized image in grey levels [h w 3]."""
    unscaled = Preprocess(std=(1 / 255,) * 3, antialias=antialias)
    images = prepare_frames(
        frame[None, None], image_px, unscaled, device=torch.device("cpu"), dtype=torch.float32
    )
    return images[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", SIZES)
def test_native_resize_is_pillows(size, photo):
    image = photo(*size)
    theirs = Image.fromarray(image.numpy()).resize((224, 224), Image.Resampling.BICUBIC)
    difference = np.abs(_levels(image, antialias=True) - np.asarray(theirs, dtype=np.float32))
    assert difference.max() <= 1
    assert difference.mean() < 0.05


@pytest.mark.parametrize("size", SIZES)
def test_lary_resize_is_opencvs(size):
    cv2 = pytest.importorskip("cv2")
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator)
    theirs = cv2.resize(image.numpy(), (224, 224), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    difference = np.abs(_levels(image, antialias=False) - theirs)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.005


def test_shrinking_differs_between_the_two(photo):
    image = photo(480, 640)
    assert np.abs(_levels(image, True, 56) - _levels(image, False, 56)).max() > 5


def test_a_frame_of_the_right_size_is_only_scaled(photo):
    image = photo(28, 28)
    assert np.array_equal(_levels(image, antialias=True, image_px=28), image.numpy())


def test_published_normalisation():
    grey = torch.full((1, 1, 14, 14, 3), 127, dtype=torch.uint8)

    def value(name: str, pipeline: str) -> list[float]:
        preprocess = encoder_spec(name).preprocess[pipeline]
        images = prepare_frames(grey, 14, preprocess, device=torch.device("cpu"), dtype=torch.float64)
        return images[0, :, 0, 0].tolist()

    x = 127 / 255
    imagenet = [(x - 0.485) / 0.229, (x - 0.456) / 0.224, (x - 0.406) / 0.225]
    assert value("dinov2-small", "native") == pytest.approx(imagenet, abs=1e-6)
    assert value("dinov2-small", "lary") == pytest.approx([2 * x - 1] * 3, abs=1e-6)
    assert value("efficientnet-lite0", "native") == pytest.approx([0, 0, 0], abs=1e-6)
    assert value("pixels", "native") == pytest.approx([x] * 3, abs=1e-6)


def test_input_is_left_alone(photo):
    image = photo(28, 28)[None, None].clone()
    before = image.clone()
    for name in list_encoders():
        for preprocess in encoder_spec(name).preprocess.values():
            prepare_frames(image, 14, preprocess, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert torch.equal(image, before)
