"""The Open-MAGVIT2 autoencoder against the class that LARYBench runs.

Golden: `Encoder` and `Decoder` of LARYBench's get_latent_action/models/magvit2/improved_model.py with ch=32,
ch_mult=(1, 1, 2, 2, 4), num_res_blocks=2, z_channels=18, filled by `golden_weights.fill`, in eval mode on
images from numpy's RandomState(0).uniform(-1, 1, (2, 3, 64, 48)); the decoder gets the sign of the features.
"""

from functools import partial

import pytest
import torch
from golden_weights import fill, golden

from lary_policy.encoders.base import load_encoder
from lary_policy.encoders.families import magvit2 as open_magvit2
from lary_policy.encoders.families.magvit2.model import (
    Magvit2Autoencoder,
    Magvit2Config,
    Magvit2Decoder,
    Magvit2Encoder,
    magvit2_tensors,
)
from lary_policy.encoders.preprocess import prepare_frames

SMALL = Magvit2Config(base_channels=32, blocks=2)


@torch.no_grad()
def test_features_equal_the_reference():
    tensors = golden("magvit2")
    features = fill(Magvit2Encoder(SMALL))(tensors["images"])
    assert features.shape == (2, 18, 4, 3)
    torch.testing.assert_close(features, tensors["features"], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_reconstructions_equal_the_reference():
    tensors = golden("magvit2")
    images = fill(Magvit2Decoder(SMALL))(tensors["features"].sign())
    torch.testing.assert_close(images, tensors["reconstruction"], rtol=1e-5, atol=1e-5)


def test_parameters_are_those_that_the_paper_counts():
    with torch.device("meta"):
        model = Magvit2Autoencoder()
        features = model.encoder(torch.zeros(1, 3, 224, 224))
    assert sum(p.numel() for p in model.parameters()) == 115_127_829
    assert features.shape == (1, 18, 14, 14)
    assert Magvit2Config().patch_px == 16


def test_a_checkpoint_gives_raw_or_averaged_weights():
    encoder = fill(Magvit2Encoder(SMALL))
    raw = {f"encoder.{key}": value.clone() for key, value in encoder.state_dict().items()}
    averaged = {f"model_ema.{key.replace('.', '')}": value + 1 for key, value in raw.items()}
    rest = {
        "quantize.mask": torch.ones(18),
        "loss.discriminator.weight": torch.ones(1),
        "decoder.x": torch.ones(1),
    }
    state = {**raw, **averaged, **rest, "model_ema.decay": torch.tensor(0.999)}
    assert magvit2_tensors(raw, "encoder", ema=True).keys() == encoder.state_dict().keys()
    assert magvit2_tensors(state, "decoder", ema=False).keys() == {"x"}
    for ema, offset in ((False, 0), (True, 1)):
        tensors = magvit2_tensors(state, "encoder", ema=ema)
        encoder.load_state_dict(tensors)
        assert torch.equal(tensors["conv_in.weight"], raw["encoder.conv_in.weight"] + offset)


@pytest.mark.parametrize("size", [16, 48])
def test_one_cell_sees_all_its_pixels(size):
    encoder = fill(Magvit2Encoder(SMALL))
    images = torch.zeros(1, 3, size, size, requires_grad=True)
    encoder(images)[0, :, 0, 0].abs().sum().backward()
    assert (images.grad[0, :, :16, :16] != 0).all()


@pytest.mark.parametrize(("preprocess", "offset"), [("native", 1.0), ("lary", 0.0)])
def test_native_takes_averaged_weights_and_lary_raw_ones(
    preprocess, offset, tmp_path, monkeypatch, noise_frames
):
    monkeypatch.setattr(open_magvit2, "Magvit2Encoder", partial(Magvit2Encoder, SMALL))
    raw = {f"encoder.{key}": value.clone() for key, value in fill(Magvit2Encoder(SMALL)).state_dict().items()}
    averaged = {f"model_ema.{key.replace('.', '')}": value + 1 for key, value in raw.items()}
    torch.save({"state_dict": {**raw, **averaged}, "global_step": 1}, tmp_path / "lightning.ckpt")
    options = {"weights": str(tmp_path / "lightning.ckpt"), "image_px": 32, "preprocess": preprocess}
    encoder = load_encoder("open-magvit2", **options)
    assert encoder.encode(noise_frames[:1, :1]).shape == (1, 1, 4, 18)
    weight = encoder.model.backbone.conv_in.weight
    assert torch.equal(weight, raw["encoder.conv_in.weight"] + offset)


def test_lary_feeds_zero_to_one_and_native_minus_one_to_one():
    white = torch.full((1, 1, 16, 16, 3), 255, dtype=torch.uint8)
    for name, low in (("native", -1.0), ("lary", 0.0)):
        pipeline = open_magvit2.OPEN_MAGVIT2.preprocess[name]
        images = [
            prepare_frames(f, 16, pipeline, device=torch.device("cpu"), dtype=torch.float32)
            for f in (torch.zeros_like(white), white)
        ]
        assert (images[0] == low).all()
        assert (images[1] == 1.0).all()
