"""The latent action quantiser against golden tensors of the reference classes.

Recipe of tests/golden/laq_pixels.safetensors and laq_features.safetensors: LARYBench's
`LatentActionQuantization` (28 px images, 4 px patches, code_seq_len 4) and
`LatentActionQuantizationDinov3Feature` (14 x 14 grid, code_seq_len 16, its front end replaced by given
features), commit 2092d20, on the CPU with width 16, 4 heads of 4, 2 + 2 layers, 8 codes of width 8 and random
weights. `encoded` is `encode` of both frames' tokens, `quantised` and `indices` come from
`inference(return_only_codebook_ids=True)`, `lary` from `forward(return_only_codebook_ids=True)` with the
drawn `noise` recorded, `reconstruction` is the decoder's answer to `quantised`.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lary_policy.encoders.base import encoder_spec, load_encoder
from lary_policy.encoders.families.lapa.model import (
    LaqConfig,
    LaqModel,
    LatentActionQuantiser,
    pair_noise,
    sign_frames,
)
from lary_policy.errors import ConfigError

FOLDER = Path(__file__).parents[1] / "golden"
FEATURES = LaqConfig(16, code_width=8, spatial_depth=2, temporal_depth=2, heads=4, head_width=4)
CONFIGS = {
    "laq_pixels": replace(FEATURES, code_seq_len=4, input_patch_px=4, output_patch_px=4),
    "laq_features": FEATURES,
}
# Name: parameters in M as the paper prints them, keys of a checkpoint without its frozen network, shape of a
# pair's and of 9 frames' tokens in the reference.
PUBLISHED = {
    "lapa": (343.80, 493, (4, 1024), (8, 4, 1024)),
    "lapa-dinov2": (473.69, 253, (16, 1024), (8, 16, 1024)),
    "lapa-dinov3": (472.45, 253, (16, 1024), (8, 16, 1024)),
    "lapa-siglip2": (200.83, 253, (16, 768), (8, 16, 768)),
    "lapa-magvit2": (116.40, 255, (16, 18), (8, 16, 18)),
}
every_variant = pytest.mark.parametrize("name", PUBLISHED)


@pytest.fixture
def frames():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, 4, 56, 56, 3), dtype=torch.uint8, generator=generator)


@pytest.fixture(params=CONFIGS)
def golden(request):
    return load_file(FOLDER / f"{request.param}.safetensors") | {"config": CONFIGS[request.param]}


@pytest.fixture
def quantiser(golden):
    quantiser = LatentActionQuantiser(golden["config"])
    quantiser.load_state_dict(
        {k.removeprefix("state."): v for k, v in golden.items() if k.startswith("state.")}
    )
    return quantiser.requires_grad_(False)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_both_transformers_equal_the_reference(quantiser, golden):
    close(quantiser.encode(golden["features"]), golden["encoded"])


def test_codes_and_tokens_equal_the_reference(quantiser, golden):
    first, second = golden["features"].unbind(1)
    tokens = LaqModel(quantiser, torch.nn.Identity()).action(first, second)
    assert torch.equal(tokens.indices, golden["indices"])
    close(tokens.quantised, golden["quantised"])
    assert tokens.lary is None


def test_noisy_training_path_with_given_noise_equals_the_reference(quantiser, golden):
    difference = quantiser(*golden["features"].unbind(1))
    close(quantiser.vq.decode(quantiser.vq.substitute_noise(difference, golden["noise"])), golden["lary"])


def test_decoder_equals_the_reference(quantiser, golden):
    close(quantiser.reconstruct(golden["features"][:, 0], golden["quantised"]), golden["reconstruction"])


def test_patch_embedding_equals_the_reference():
    golden = load_file(FOLDER / "laq_pixels.safetensors")
    quantiser = LatentActionQuantiser(CONFIGS["laq_pixels"])
    quantiser.load_state_dict(
        {k.removeprefix("state."): v for k, v in golden.items() if k.startswith("state.")}
    )
    model = LaqModel(quantiser, None)
    for frame in (0, 1):
        close(model.features(golden["video"][:, :, frame]), golden["features"][:, frame])


@every_variant
def test_published_sizes(name):
    params_m, keys, pair, clip = PUBLISHED[name]
    with torch.device("meta"):
        encoder = load_encoder(name, weights="random", image_px=224, device="meta")
        frames = torch.zeros(1, 9, 24, 32, 3, dtype=torch.uint8)
    assert round(sum(p.numel() for p in encoder.model.parameters()) / 1e6, 2) == params_m
    assert len(encoder.model.quantiser.state_dict()) == keys
    assert encoder.encode(frames[:, :2]).shape == (1, 1, *pair)
    assert encoder.encode(frames).shape == (1, *clip)
    assert encoder.encode_indices(frames).shape == (1, *clip[:2])


@every_variant
def test_reference_pipeline_is_224_px_cubic_and_noisy(name):
    spec = encoder_spec(name)
    lary, native = spec.preprocess_named("lary"), spec.preprocess_named("native")
    assert spec.default_image_px("lary") == 224
    assert spec.output_named("auto", "lary") == "lary"
    assert spec.output_named("auto", "native") == "continuous"
    assert (lary.interpolation, lary.antialias) == ("bicubic", False)
    assert (native.interpolation, native.antialias) == ("bilinear", True)
    # Both ranges are what the quantiser was trained with: [-1, 1] in front of DINO, [0, 1] otherwise.
    expected = 0.5 if "dino" in name else 0.0
    assert lary.mean == native.mean == (expected,) * 3


def test_lapa_sees_256_px_as_its_authors_feed_it():
    assert encoder_spec("lapa").default_image_px("native") == 256


def tiny(name, **options):
    return load_encoder(name, weights="tiny-random", **options)


@pytest.mark.parametrize("name", ["lapa", "lapa-dinov3"])
def test_d3_noisy_output_depends_on_the_pair_and_the_seed_only(name, frames):
    encoder = tiny(name, output="lary", seed=5)
    latents = encoder.encode(frames)
    singles = [encoder.encode(clip[None, i : i + 2])[0] for clip in frames for i in range(3)]
    torch.testing.assert_close(latents.flatten(0, 1), torch.cat(singles), rtol=1e-4, atol=1e-4)
    assert torch.equal(latents, tiny(name, output="lary", seed=5).encode(frames))
    assert not torch.allclose(latents, tiny(name, output="continuous", seed=5).encode(frames), atol=1e-2)
    assert encoder.fingerprint != tiny(name, output="continuous", seed=5).fingerprint


def test_d3_noise_differs_between_seeds_and_between_pairs(frames):
    encoder = tiny("lapa", output="lary")
    features = encoder.features(frames)
    first, second = features[:, :-1].flatten(0, 1), features[:, 1:].flatten(0, 1)
    latents = encoder.model.action(first, second).lary
    encoder.model.noise_seed = 1
    again = encoder.model.action(first, second)
    assert not torch.allclose(latents, again.lary, atol=1e-2)
    assert torch.equal(again.lary, encoder.model.action(first, second).lary)


def test_d3_noise_is_standard_normal_and_not_shared():
    torch.manual_seed(0)
    signatures = torch.randint(0, 256, (500, 8)).float()
    noise = pair_noise(0, signatures[:-1], signatures[1:], torch.Size((499, 4, 8)))
    assert noise.mean().abs() < 0.03
    assert (noise.std() - 1).abs() < 0.03
    assert (noise[1:] * noise[:-1]).mean().abs() < 0.03
    swapped = pair_noise(0, signatures[1:], signatures[:-1], torch.Size((499, 4, 8)))
    assert (noise * swapped).mean().abs() < 0.03


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_d3_every_dtype_holds_the_digits_that_identify_a_frame(dtype, frames):
    images = torch.rand(6, 3, 8, 8).to(getattr(torch, dtype))
    signatures = sign_frames(images, torch.zeros(6, 5, 16, dtype=images.dtype))[:, 0, :8]
    expected = sign_frames(images, torch.zeros(6, 5, 16, dtype=torch.float64))[:, 0, :8]
    assert torch.equal(signatures.double(), expected)
    assert expected.unique(dim=0).shape == (6, 8)


def test_d31_a_frame_in_two_pairs_goes_through_the_backbone_once(frames):
    encoder = tiny("lapa-siglip2")
    seen = []
    encoder.model.backbone.register_forward_hook(lambda module, images, tokens: seen.append(len(images[0])))
    encoder.encode(frames)
    assert seen == [3 * 4]


def test_outputs_are_one_decoding_of_three_inputs(frames):
    encoder = tiny("lapa-dinov3", output="lary")
    features = encoder.features(frames[:, :2])
    tokens = encoder.model.action(features[:, 0], features[:, 1])
    vq = encoder.model.quantiser.vq
    difference = encoder.model.quantiser(features[:, 0, 1:], features[:, 1, 1:])
    assert torch.equal(tokens.continuous, vq.decode(difference))
    assert torch.equal(tokens.quantised, vq.decode(vq.codebooks[tokens.indices]))
    assert tokens.indices.max() < encoder.spec.codebook[0]
    plain = tiny("lapa-dinov3").encode(frames[:, :2])
    torch.testing.assert_close(plain[:, 0], tokens.continuous)


def test_a_named_run_of_the_ablation_study_is_found_by_its_sizes():
    spec = encoder_spec("lapa-dinov3:cs64-sl49-dim256-lr1e-4")
    assert spec.reference_key == "dinov3-cs64-sl49-dim256-lr1e-4"
    assert spec.weights.filename == "dinov3_cs64_sl49_dim256_lr1e-4.pt"
    assert spec.codebook == (64, 256)
    assert (spec.latent.tokens, spec.latent.width) == (49, 1024)
    with torch.device("meta"):
        encoder = load_encoder(spec.name, weights="random", device="meta")
    assert sum(p.numel() for p in encoder.model.parameters()) / 1e6 == pytest.approx(spec.params_m, abs=0.005)
    assert encoder_spec("lapa-dinov3:cs8-sl16-dim32").params_m == encoder_spec("lapa-dinov3").params_m


@pytest.mark.parametrize("length", [16, 49, 64])
def test_runs_of_the_ablation_study_have_the_tokens_of_their_name(length, frames):
    encoder = tiny(f"lapa-dinov3:cs64-sl{length}-dim1024")
    assert encoder.encode(frames).shape == (3, 3, length, encoder.latent.width)


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("cs64-sl49", "cs64-sl49-dim256"),
        ("cs0-sl49-dim256", "codebook"),
        ("cs64-sl49-dim256-lr1", "-lr1e-4"),
        ("cs64-sl50-dim256", "1, 2, 4, 16, 49, 64, 256"),
    ],
)
def test_a_wrong_name_of_a_run_is_a_named_error(run, says):
    with pytest.raises(ConfigError, match=says):
        encoder_spec(f"lapa-dinov3:{run}")
