"""UniVLA's latent action model against its reference class, its checkpoint's names and its backbone's.

`univla.safetensors` was made with the `ControllableDINOLatentActionModel` that the reference benchmark
ships: model_dim 24, latent_dim 8, 2 + 2 blocks, 3 heads, filled by `golden_weights.fill`, positions on the
CPU, its backbone replaced by one that returns RandomState(2).normal(size=(3, 2, 6, 768)). `recon` holds every
eighth channel of the decoder's output.

`dinov2_hub_registers.safetensors` was made with torch.hub's DINOv2: 70 px positions, 2 blocks of width 48,
3 heads, 4 registers, antialiased positions, filled alike, on RandomState(3).normal(size=(2, 3, 56, 56)).
"""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_weights import fill, golden, named_tensor
from torch import nn

from lary_policy.encoders.base import load_encoder
from lary_policy.encoders.families.transformers_vit import TINY as TINY_VIT
from lary_policy.encoders.families.univla import (
    BACKBONE,
    TINY,
    UNIVLA,
    from_checkpoint,
    to_transformers_names,
)
from lary_policy.encoders.families.univla.model import UniVlaConfig, UniVlaModel
from lary_policy.encoders.weights.resolve import random_weights
from lary_policy.errors import FrameFormatError, WeightsMismatchError

GOLDEN_CONFIG = UniVlaConfig(width=24, heads=3, encoder_depth=2, decoder_depth=2, code_width=8)
ORIGIN = random_weights(0)
# sha256 over "name [shape]" of the reference's 424 tensors at full size, sorted, one a line.
NAMES_SHA256 = "b58fdb89ec069c4bfd2115312f3212fd9a2d1d6b0b0b8aa89e380949a35155ee"


def hub_shapes(width: int, depth: int, hidden: int, side: int = 37) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of torch.hub's DINOv2 with four registers."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, side * side + 1, width),
        "register_tokens": (1, 4, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    matrices = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (hidden, width),
        "mlp.fc2": (width, hidden),
    }
    for n in range(depth):
        for name, shape in matrices.items():
            shapes |= {f"blocks.{n}.{name}.weight": shape, f"blocks.{n}.{name}.bias": shape[:1]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            shapes[f"blocks.{n}.{name}"] = (width,)
    return shapes


@pytest.fixture(scope="module")
def features():
    return torch.from_numpy(np.random.RandomState(2).normal(size=(3, 2, 6, 768))).float()


@pytest.fixture(scope="module")
def model():
    return fill(UniVlaModel(GOLDEN_CONFIG, nn.Identity()))


@torch.no_grad()
def test_action_tokens_equal_the_reference(model, features):
    tokens, expected = model.action(features[:, 0], features[:, 1]), golden("univla")
    assert torch.equal(tokens.indices, expected["indices"])
    assert len(tokens.indices.unique()) > 2
    torch.testing.assert_close(tokens.continuous, expected["continuous"], rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens.quantised, expected["quantised"], rtol=0, atol=1e-5)
    assert torch.equal(tokens.quantised, model.vq_action.codebook.weight[tokens.indices])


@torch.no_grad()
def test_the_decoder_equals_the_reference(model, features):
    decoded = model.reconstruct(features[:, 0], features[:, 1])
    torch.testing.assert_close(decoded[..., ::8], golden("univla")["recon"], rtol=0, atol=1e-5)


@torch.no_grad()
def test_time_has_a_direction(model, features):
    forward = model.action(features[:, 0], features[:, 1]).continuous
    assert not torch.allclose(forward, model.action(features[:, 1], features[:, 0]).continuous, atol=1e-2)


def test_full_size_has_the_published_names_shapes_and_parameters():
    with torch.device("meta"):
        encoder = load_encoder("univla", weights="random", device="meta")
        latents = encoder.encode(torch.zeros(1, 9, 32, 48, 3, dtype=torch.uint8))
    assert latents.shape == (1, 8, 4, 128)
    shapes = {k: list(v.shape) for k, v in encoder.model.state_dict().items()}
    own = sorted(f"{k} {shape}" for k, shape in shapes.items() if not k.startswith("dino_encoder."))
    assert len(own) == 424
    assert hashlib.sha256("\n".join(own).encode()).hexdigest() == NAMES_SHA256
    params = sum(p.numel() for p in encoder.model.parameters())
    assert round(params / 1e6, 2) == 287.75 == UNIVLA.params_m


def tiny_backbone(**sizes):
    return replace(BACKBONE, config={**BACKBONE.config, **TINY_VIT, **sizes})


@torch.no_grad()
def test_the_backbone_out_of_torch_hub_equals_transformers():
    vit = tiny_backbone(hidden_size=48, num_attention_heads=3, intermediate_size=192, image_size=70)
    state = {k: named_tensor(k, shape) for k, shape in hub_shapes(48, depth=2, hidden=192, side=5).items()}
    backbone = vit.pretrained(to_transformers_names(state), ORIGIN).eval()
    images = torch.from_numpy(np.random.RandomState(3).normal(size=(2, 3, 56, 56))).float()
    expected = golden("dinov2_hub_registers")["patch_tokens"]
    torch.testing.assert_close(backbone(images), expected, rtol=0, atol=1e-5)


@pytest.fixture
def checkpoint():
    """Return tensors of a toy checkpoint as Lightning stores them, backbone under torch.hub's names."""
    own = fill(UniVlaModel(TINY, nn.Identity())).state_dict()
    sizes = {"width": TINY_VIT["hidden_size"], "depth": TINY_VIT["num_hidden_layers"]}
    hub = hub_shapes(**sizes, hidden=4 * TINY_VIT["hidden_size"])
    backbone = {f"dino_encoder.{k}": named_tensor(k, shape) for k, shape in hub.items()}
    return {f"lam.{k}": v for k, v in {**own, **backbone}.items()}


@pytest.fixture
def toy():
    """Return the backbone of the toy checkpoint."""
    return tiny_backbone(intermediate_size=4 * TINY_VIT["hidden_size"])


def test_a_lightning_checkpoint_is_loaded_whole(checkpoint, toy, noise_frames):
    model = from_checkpoint(checkpoint, ORIGIN, TINY, toy)
    loaded = model.state_dict()
    for name in ("action_latent", "decoder.out.weight", "vq.codebook.weight"):
        assert torch.equal(loaded[name], checkpoint[f"lam.{name}"])
    images = noise_frames[0, :3, :28, :28].permute(0, 3, 1, 2).float() / 255
    assert model.eval().features(images).shape == (3, 4, TINY_VIT["hidden_size"])


@pytest.mark.parametrize("name", ["lam.vq_action.codebook.weight", "lam.dino_encoder.blocks.1.mlp.fc2.bias"])
def test_a_missing_tensor_is_named(checkpoint, toy, name):
    del checkpoint[name]
    with pytest.raises(WeightsMismatchError, match=r"missing"):
        from_checkpoint(checkpoint, ORIGIN, TINY, toy)


def test_another_size_names_both_shapes(checkpoint, toy):
    checkpoint["lam.to_codebook.weight"] = torch.zeros(16, 24)
    with pytest.raises(WeightsMismatchError, match=r"to_codebook.weight is \(16, 24\), model \(8, 24\)"):
        from_checkpoint(checkpoint, ORIGIN, TINY, toy)


@pytest.mark.parametrize("output", ["continuous", "quantised"])
def test_a_pair_has_the_same_latent_in_a_clip_and_alone(noise_frames, output):
    encoder = load_encoder("univla", weights="tiny-random", image_px=28, output=output)
    assert (encoder.latent.kind, encoder.latent.quantised) == ("pair", output == "quantised")
    noise_frames = noise_frames[:, :3]
    latents = encoder.encode(noise_frames)
    assert latents.shape == (2, 2, encoder.latent.tokens, encoder.latent.width)
    alone = torch.cat([encoder.encode(noise_frames[:, i : i + 2]) for i in range(2)], dim=1)
    torch.testing.assert_close(latents, alone, rtol=1e-4, atol=1e-5)
    codes = encoder.model.vq_action.codebook.weight[encoder.encode_indices(noise_frames)]
    assert torch.allclose(codes, latents) == (output == "quantised")


def test_the_reference_returns_codes():
    native = load_encoder("univla", weights="tiny-random", image_px=28)
    lary = load_encoder("univla", weights="tiny-random", image_px=28, preprocess="lary")
    assert (native.latent.quantised, lary.latent.quantised) == (False, True)


def test_one_frame_is_an_error(noise_frames):
    encoder = load_encoder("univla", weights="tiny-random", image_px=28)
    with pytest.raises(FrameFormatError, match="two frames"):
        encoder.encode(noise_frames[:, :1])
