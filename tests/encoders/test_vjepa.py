"""V-JEPA 2: frame counts, upstream checkpoints, the reference's preprocessing (defect D4 of the reference).

Golden: `VisionTransformer` of LARYBench's get_latent_action/models/vjepa2/src/models/vision_transformer.py
with img_size=(48, 48), patch_size=16, num_frames=16, tubelet_size=2, embed_dim=96, depth=2, num_heads=3,
mlp_ratio=4, qkv_bias=True, LayerNorm of eps 1e-6, use_rope=True, uniform_power=True, filled by
`golden_weights.fill`, on clips from numpy's RandomState(0).standard_normal((1, 4, 3, 48, 48)).
"""

import functools
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from golden_weights import golden, golden_state
from safetensors.torch import save_file

from lary_policy.encoders.base import EncoderOptions, encoder_spec, load_encoder
from lary_policy.encoders.families import vjepa
from lary_policy.encoders.families.vjepa import VJepa2Tokens, to_vjepa2_names, vjepa2_encoder
from lary_policy.encoders.preprocess import IMAGENET_MEAN, IMAGENET_STD, prepare_frames
from lary_policy.errors import FrameFormatError, WeightsMismatchError

SIZES = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
tiny = functools.cache(functools.partial(load_encoder, "vjepa2-large", weights="tiny-random", image_px=32))


def golden_model(image_px: int, prefix: str = "module.backbone.") -> VJepa2Tokens:
    backbone = vjepa2_encoder(image_px, **SIZES)
    tensors = {prefix + name: value for name, value in golden_state("vjepa2").items()}
    backbone.load_state_dict(to_vjepa2_names(tensors))
    return VJepa2Tokens(backbone).eval()


@torch.no_grad()
def test_upstream_weights_give_the_tokens_of_the_reference():
    tensors = golden("vjepa2")
    tokens = golden_model(48)(tensors["clips"])
    assert tokens.shape == (1, 2, 9, 96)
    torch.testing.assert_close(tokens.flatten(1, 2), tensors["tokens"], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_rotary_positions_follow_the_input_size():
    tensors = golden("vjepa2")
    tokens = golden_model(256)(tensors["clips"])
    assert (tokens.flatten(1, 2) - tensors["tokens"]).abs().max() > 0.5


def test_parameters_and_token_shapes_of_the_published_model():
    spec = encoder_spec("vjepa2-large")
    with torch.device("meta"):
        encoder = load_encoder("vjepa2-large", weights="random", preprocess="lary", device="meta")
        pair = encoder.encode(torch.zeros(1, 2, 64, 80, 3, dtype=torch.uint8))
        clip = encoder.encode(torch.zeros(1, 9, 64, 80, 3, dtype=torch.uint8))
    params = sum(p.numel() for p in encoder.model.parameters())
    assert round(params / 1e6, 2) == spec.params_m == 303.89
    assert pair.shape == (1, 1, 196, 1024)
    assert clip.shape == (1, 4, 196, 1024)
    assert spec.latent_at(256).tokens == spec.latent.tokens == 256


@pytest.mark.parametrize(("t", "odd"), [(1, 0), (3, 2), (9, 8)])
def test_d4_native_names_the_odd_frame(t, odd, noise_frames):
    frames = noise_frames[:, :1].expand(-1, t, -1, -1, -1)
    with pytest.raises(FrameFormatError, match=rf"got {t}: frame {odd} .* no partner"):
        tiny().encode(frames)


def test_d4_lary_drops_the_odd_frame(noise_frames):
    encoder = tiny(preprocess="lary")
    latents = encoder.encode(noise_frames[:, :3])
    assert latents.shape == (2, 1, 4, encoder.latent.width)
    assert torch.equal(latents, encoder.encode(noise_frames[:, :2]))
    with pytest.raises(FrameFormatError, match="frame 0"):
        encoder.encode(noise_frames[:, :1])


def test_every_frame_of_an_even_clip_counts(noise_frames):
    clip = noise_frames.flatten(0, 1)[None, :4]
    latents = tiny().encode(clip)
    assert latents.shape == (1, 2, 4, tiny().latent.width)
    for t in range(4):
        other = clip.clone()
        other[:, t] = 255 - other[:, t]
        assert not torch.allclose(tiny().encode(other), latents, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(180, 320), (320, 200), (256, 256), (480, 640)])
def test_lary_resizes_the_short_side_and_crops_as_opencv_does(height, width, photo):
    image = photo(height, width)
    short = min(height, width)
    size = (int(256 * width / short), int(256 * height / short))
    resized = cv2.resize(image.numpy(), size, interpolation=cv2.INTER_LINEAR)
    top, left = (round((side - 224) / 2) for side in resized.shape[:2])
    expected = resized[top : top + 224, left : left + 224] / 255
    expected = (expected - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    spec = encoder_spec("vjepa2-large")
    ours = prepare_frames(
        image[None, None], 224, spec.preprocess["lary"], device=torch.device("cpu"), dtype=torch.float32
    )
    difference = (ours[0].permute(1, 2, 0).numpy() - expected) * np.array(IMAGENET_STD) * 255
    assert abs(difference).max() < 1.01  # OpenCV's bilinear works in fixed point


def test_native_equals_the_video_processor_of_transformers(photo):
    from transformers import VJEPA2VideoProcessor

    clip = torch.stack([photo(300, 400), photo(300, 400).flip(1)])
    expected = VJEPA2VideoProcessor()(clip.permute(0, 3, 1, 2), return_tensors="pt")["pixel_values_videos"][0]
    spec = encoder_spec("vjepa2-large")
    ours = prepare_frames(
        clip[None], 256, spec.preprocess["native"], device=torch.device("cpu"), dtype=torch.float32
    )
    assert ours.shape == expected.shape
    difference = (ours - expected).abs()
    assert difference.max() < 1.01 / 255 / min(IMAGENET_STD)  # another rounding of one grey level
    assert (difference > 0.01).float().mean() < 0.03


def test_files_of_both_publishers_give_the_same_latents(tmp_path, monkeypatch, noise_frames):
    monkeypatch.setattr(vjepa, "vjepa2_encoder", functools.partial(vjepa2_encoder, **SIZES))
    spec = replace(vjepa.LARGE, latent=replace(vjepa.LARGE.latent, width=96))
    tensors = {f"module.backbone.{name}": value for name, value in golden_state("vjepa2").items()}
    torch.save({"encoder": {}, "target_encoder": tensors, "epoch": 1}, tmp_path / "vitl.pt")
    renamed = {f"encoder.{name}": value.contiguous() for name, value in to_vjepa2_names(tensors).items()}
    save_file({**renamed, "predictor.x": torch.ones(1)}, tmp_path / "model.safetensors")
    latents = []
    for path in (tmp_path / "vitl.pt", tmp_path):
        options = EncoderOptions(str(path), 48, "native", torch.float32, torch.device("cpu"), 0)
        latents.append(vjepa.build_vjepa2(spec, options).encode(noise_frames[:, :2]))
    assert latents[0].shape == (2, 1, 9, 96)
    assert torch.equal(*latents)


def test_weights_of_another_size_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        vjepa, "vjepa2_encoder", functools.partial(vjepa2_encoder, **{**SIZES, "hidden_size": 48})
    )
    torch.save({"target_encoder": golden_state("vjepa2")}, tmp_path / "vitl.pt")
    with pytest.raises(
        WeightsMismatchError, match=r"proj\.weight is \(96, 3, 2, 16, 16\), model \(48, 3, 2, 16"
    ):
        load_encoder("vjepa2-large", weights=str(tmp_path / "vitl.pt"))


def test_names_of_transformers_pass_without_the_predictor():
    tensors = {"encoder.layernorm.weight": torch.ones(1), "predictor.x": torch.ones(1)}
    assert set(to_vjepa2_names(tensors)) == {"layernorm.weight"}
