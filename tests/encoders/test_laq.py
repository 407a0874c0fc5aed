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

from lary_policy.encoders.laq import LaqConfig, LaqModel, LatentActionQuantiser

FOLDER = Path(__file__).parents[1] / "golden"
FEATURES = LaqConfig(16, code_width=8, spatial_depth=2, temporal_depth=2, heads=4, head_width=4)
CONFIGS = {
    "laq_pixels": replace(FEATURES, code_seq_len=4, input_patch_px=4, output_patch_px=4),
    "laq_features": FEATURES,
}


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
