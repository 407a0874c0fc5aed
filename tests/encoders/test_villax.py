"""villa-X's latent action model against its reference class and its checkpoint's names.

`villax.safetensors` was made with the `IgorModel` that the reference benchmark ships: resolution 56, encoder
of 2 blocks, width 48 and 3 heads, 2 tokens of width 8, 6 pooling heads, decoder of 2 blocks, width 32 and 4
heads, 16 codes; filled by `golden_weights.fill`, then 1 added to the gains of the RMS norms (`.g`) and the
codebook doubled. `idm` got uint8 clips RandomState(1).randint(0, 256, (2, t, 56, 56, 3)) of t = 2, 9 and 11
frames. `fdm` holds every seventh pixel of what the decoder makes of the images
RandomState(4).normal(size=(2, 3, 56, 56)) and the action RandomState(5).normal(size=(2, 2, 8)); `table.*` are
the position tables before the filling.
"""

import hashlib
import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torchvision
from golden_weights import fill, golden
from PIL import Image
from safetensors.torch import save_file

from lary_policy.encoders.base import EncoderOptions, load_encoder
from lary_policy.encoders.families.villax import TINY, VILLA_X, read_villax_config
from lary_policy.encoders.families.villax.model import VillaXConfig, VillaXModel
from lary_policy.encoders.kinds import PairEncoder
from lary_policy.encoders.preprocess import IMAGENET_MEAN, IMAGENET_STD
from lary_policy.encoders.weights.resolve import random_weights
from lary_policy.errors import ConfigError, FrameFormatError, WeightsMismatchError
from lary_policy.types import LatentSpec

CONFIG = VillaXConfig(
    resolution=56,
    encoder_depth=2,
    encoder_embed_dim=48,
    encoder_n_heads=3,
    action_latent_dim=8,
    map_heads=6,
    decoder_depth=2,
    decoder_embed_dim=32,
    decoder_n_heads=4,
    n_codes=16,
)
# sha256 over "name [shape]" of the reference's 499 tensors at full size, sorted, one a line.
NAMES_SHA256 = "cf1df31f1d3c6139bd9653ccdeaeb0c27dd2a973c6c39c2f824cfad18f8ebbc0"


def golden_model() -> VillaXModel:
    model = fill(VillaXModel(CONFIG))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".g"):
                parameter += 1
        model.vq.embedding.weight *= 2
    return model


def golden_encoder(output: str) -> PairEncoder:
    options = EncoderOptions("random", 56, "native", torch.float32, torch.device("cpu"), 0, output)
    return PairEncoder(VILLA_X, options, golden_model(), random_weights(0), LatentSpec("pair", 2, 8))


def clip(frames: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(1).randint(0, 256, (2, frames, 56, 56, 3))).to(torch.uint8)


@pytest.mark.parametrize("frames", [2, 9, 11])
@pytest.mark.parametrize("output", ["continuous", "quantised"])
def test_clips_equal_the_reference(frames, output):
    encoder, expected = golden_encoder(output), golden("villax")
    latents = encoder.encode(clip(frames))
    assert latents.shape == (2, frames - 1, 2, 8)
    torch.testing.assert_close(latents, expected[f"{output}.{frames}"], rtol=0, atol=1e-5)
    indices = encoder.encode_indices(clip(frames))
    assert torch.equal(indices, expected[f"indices.{frames}"])
    assert len(indices.unique()) > 2


@torch.no_grad()
def test_the_decoder_equals_the_reference():
    images = torch.from_numpy(np.random.RandomState(4).normal(size=(2, 3, 56, 56))).float()
    action = torch.from_numpy(np.random.RandomState(5).normal(size=(2, 2, 8))).float()
    pixels = golden_model().decoder(images, action)
    torch.testing.assert_close(pixels[..., ::7], golden("villax")["fdm"], rtol=0, atol=1e-5)


def test_position_tables_equal_the_reference():
    state = VillaXModel(CONFIG).state_dict()
    for name in ("encoder.pe_spatial", "encoder.pe_temporal", "decoder.pe"):
        torch.testing.assert_close(state[name], golden("villax")[f"table.{name}"], rtol=0, atol=1e-6)


def test_full_size_has_the_published_names_shapes_and_parameters():
    with torch.device("meta"):
        encoder = load_encoder("villa-x", weights="random", device="meta")
        latents = encoder.encode(torch.zeros(1, 9, 32, 48, 3, dtype=torch.uint8))
    assert latents.shape == (1, 8, 2, 32)
    names = sorted(f"{k} {list(v.shape)}" for k, v in encoder.model.state_dict().items())
    assert len(names) == 499
    assert hashlib.sha256("\n".join(names).encode()).hexdigest() == NAMES_SHA256
    params = sum(p.numel() for p in encoder.model.parameters())
    assert round(params / 1e6, 2) == 238.71 == VILLA_X.params_m


def test_a_latent_knows_its_past_and_not_its_future():
    encoder, frames = golden_encoder("continuous"), clip(11)
    latents = encoder.encode(frames)
    torch.testing.assert_close(encoder.encode(frames[:, :5]), latents[:, :4], rtol=1e-4, atol=1e-5)
    # The ninth latent comes from the window of frames 2..9 alone, the first pair of a window from no past.
    torch.testing.assert_close(encoder.encode(frames[:, 2:10])[:, -1], latents[:, 8], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.encode(frames[:, :2]), latents[:, :1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(encoder.encode(frames[:, 3:5])[:, 0], latents[:, 3], atol=1e-3)


def test_lary_reads_clips_with_the_models_own_resize_and_pairs_with_pillows(photo):
    frames = torch.stack([photo(240, 320), photo(240, 320).flip(1), photo(240, 320).flip(0)])
    options = EncoderOptions("random", 56, "lary", torch.float32, torch.device("cpu"), 0, "continuous")
    encoder = PairEncoder(VILLA_X, options, golden_model(), random_weights(0), LatentSpec("pair", 2, 8))
    video = torchvision.transforms.v2.functional.resize(frames.movedim(-1, 1), [56, 56], antialias=True)
    images = [Image.fromarray(f.numpy()).resize((56, 56), Image.Resampling.LANCZOS) for f in frames]
    pillow = torch.stack([torch.from_numpy(np.asarray(image).copy()) for image in images]).movedim(-1, 1)
    for read_as_video, pixels in ((True, video), (False, pillow)):
        ours = encoder.prepared(frames[None], video=read_as_video)
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
        assert float(((ours * std + mean) * 255 - pixels).abs().max()) <= 1.01
    clips = encoder.encode(video.movedim(1, -1)[None])
    torch.testing.assert_close(encoder.encode(frames[None]), clips, rtol=0, atol=0.02)
    pairs = encoder.encode(pillow.movedim(1, -1)[None, :2])
    torch.testing.assert_close(encoder.encode(frames[None, :2]), pairs, rtol=0, atol=0.02)


def test_features_and_latents_make_a_pair_of_their_own():
    encoder, frames = golden_encoder("continuous"), clip(3)
    features = encoder.features(frames)
    pairs = encoder.latents(features[:, :-1], features[:, 1:])
    alone = torch.cat([encoder.encode(frames[:, i : i + 2]) for i in range(2)], dim=1)
    torch.testing.assert_close(pairs, alone, rtol=1e-4, atol=1e-5)


@pytest.fixture
def folder(tmp_path):
    """Return a published folder at a toy size."""
    save_file(golden_model().state_dict(), tmp_path / "model.safetensors")
    trained = {"augment_type": "resize_crop", "random_crop_scale": [0.8, 1.0], "use_xformers": None}
    config = {**asdict(CONFIG), **trained, "grid_size": 4, "embed_tokens": 16}
    write_config(tmp_path, {"architecture": "IgorModel", "description": "", "version": 0, "config": config})
    return tmp_path


def write_config(folder, value):
    (folder / "model_config.json").write_text(json.dumps(value))


def test_a_folder_says_its_own_sizes(folder):
    encoder = load_encoder("villa-x", weights=str(folder), image_px=56)
    assert (encoder.latent.tokens, encoder.latent.width) == (2, 8)
    torch.testing.assert_close(encoder.encode(clip(9)), golden("villax")["continuous.9"], rtol=0, atol=1e-5)
    assert len(encoder.weights.sha256) == 64


def test_only_the_size_of_the_positions_is_allowed(folder):
    with pytest.raises(ConfigError, match="image_px=56"):
        load_encoder("villa-x", weights=str(folder), image_px=224)
    assert load_encoder("villa-x", weights=str(folder)).model.config.resolution == 56


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architecture": "IgorDecoder", "config": {}}, "IgorDecoder"),
        ({"architecture": "IgorModel", "config": {"colour_depth": 3}}, "colour_depth"),
        ({"config": {}}, "architecture"),
        (["a", "list"], "a list"),
        ({"architecture": "IgorModel", "config": {"encoder_depth": 10**9}}, "encoder_depth 1000000000"),
        ({"architecture": "IgorModel", "config": {"encoder_embed_dim": "wide"}}, "Error"),
    ],
)
def test_a_wrong_configuration_is_named(folder, config, says):
    write_config(folder, config)
    with pytest.raises(WeightsMismatchError, match=says):
        load_encoder("villa-x", weights=str(folder), image_px=56)


def test_a_missing_configuration_says_which_folder_to_give(folder):
    (folder / "model_config.json").unlink()
    with pytest.raises(WeightsMismatchError, match=r"model_config\.json"):
        read_villax_config(folder / "model_config.json")
    with pytest.raises(WeightsMismatchError, match="microsoft/villa-x"):
        load_encoder("villa-x", weights=str(folder), image_px=56)


def test_weights_of_another_size_are_refused(folder):
    config = {**asdict(CONFIG), "n_codes": 8}
    write_config(folder, {"architecture": "IgorModel", "config": config})
    with pytest.raises(WeightsMismatchError, match=r"vq.embedding.weight is \(16, 8\), model \(8, 8\)"):
        load_encoder("villa-x", weights=str(folder), image_px=56)


def test_the_toy_model_keeps_the_published_tokens(noise_frames):
    encoder = load_encoder("villa-x", weights="tiny-random", image_px=28)
    assert encoder.encode(noise_frames[:, :3]).shape == (2, 2, 2, TINY.action_latent_dim)
    with pytest.raises(FrameFormatError, match="two frames"):
        encoder.encode(noise_frames[:, :1])
    with pytest.raises(FrameFormatError, match="float32"):
        encoder.encode(noise_frames.float())
