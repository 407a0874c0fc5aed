"""The input pipelines against the image libraries they stand for."""

import numpy as np
import pytest
import torch
from PIL import Image

from lary_policy.encoders.base import encoder_spec, list_encoders
from lary_policy.encoders.preprocess import Preprocess, prepare_frames
from lary_policy.errors import ConfigError

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
    for name in ("dinov2-small", "dinov2-with-registers-small", "dinov3-large"):
        assert value(name, "native") == pytest.approx(imagenet, abs=1e-6)
        assert value(name, "lary") == pytest.approx([2 * x - 1] * 3, abs=1e-6)
    # The reference feeds the two families as if their conventions were swapped.
    assert value("siglip2-base", "native") == pytest.approx([2 * x - 1] * 3, abs=1e-6)
    assert value("siglip2-base", "lary") == pytest.approx([x] * 3, abs=1e-6)
    assert value("efficientnet-lite0", "native") == pytest.approx([0, 0, 0], abs=1e-6)
    assert value("pixels", "native") == pytest.approx([x] * 3, abs=1e-6)


@pytest.mark.parametrize("key", ["dinov2-origin", "dinov3-origin", "siglip2-origin", "magvit2", "lapa"])
def test_d13_native_is_the_input_of_training_and_lary_the_reference_s(key):
    """Defect D13: the reference feeds these another range, size or kernel than they were trained with."""
    (spec,) = (s for s in map(encoder_spec, list_encoders()) if s.reference_key == key)
    native, lary = spec.preprocess["native"], spec.preprocess["lary"]
    assert native.antialias
    assert not lary.antialias
    if key.endswith("-origin"):
        assert (native.mean, native.std) != (lary.mean, lary.std)
    elif key == "lapa":
        assert (spec.default_image_px("native"), spec.default_image_px("lary")) == (256, 224)


def test_input_is_left_alone(photo):
    image = photo(28, 28)[None, None].clone()
    before = image.clone()
    for name in list_encoders():
        for preprocess in encoder_spec(name).preprocess.values():
            prepare_frames(image, 14, preprocess, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert torch.equal(image, before)


@pytest.mark.parametrize("size", [*SIZES, (100, 60)])
def test_lanczos_is_pillows(size):
    generator = torch.Generator().manual_seed(2)
    image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator)
    theirs = Image.fromarray(image.numpy()).resize((224, 224), Image.Resampling.LANCZOS)
    unscaled = Preprocess(std=(1 / 255,) * 3, interpolation="lanczos")
    ours = prepare_frames(image[None, None], 224, unscaled, device=torch.device("cpu"), dtype=torch.float32)
    difference = np.abs(ours[0].permute(1, 2, 0).numpy() - np.asarray(theirs, dtype=np.float32))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("size", [(300, 417), (417, 300), (256, 256), (120, 160)])
def test_crop_is_torchvisions(size, photo):
    from torchvision.transforms import v2

    image = photo(*size)
    pipeline = Preprocess(std=(1 / 255,) * 3, interpolation="bilinear", crop=(256, 224))
    ours = prepare_frames(image[None, None], 224, pipeline, device=torch.device("cpu"), dtype=torch.float32)
    theirs = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])(image.permute(2, 0, 1))
    difference = (ours[0] - theirs.float()).abs()
    assert difference.max() <= 1
    assert difference.mean() < 0.05


def test_crops_scale_with_the_input(photo):
    image = photo(512, 512)
    pipeline = Preprocess(std=(1 / 255,) * 3, crop=(256, 224))
    ours = prepare_frames(image[None, None], 112, pipeline, device=torch.device("cpu"), dtype=torch.float32)
    resized = (
        Image.fromarray(image.numpy()).resize((128, 128), Image.Resampling.BICUBIC).crop((8, 8, 120, 120))
    )
    assert np.abs(ours[0].permute(1, 2, 0).numpy() - np.asarray(resized, dtype=np.float32)).max() <= 1


@pytest.mark.parametrize("wrong", [{"interpolation": "cubic"}, {"crop": (224, 256)}])
def test_impossible_pipelines_are_refused(wrong):
    with pytest.raises(ConfigError, match="bicubic, bilinear, lanczos"):
        Preprocess(**wrong)
