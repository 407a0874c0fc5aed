"""Checkpoints of the LAPA family: every container loads strictly, a foreign one is a named error."""

import hashlib
from dataclasses import replace
from functools import partial

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from lary_policy.encoders.base import EncoderOptions, encoder_spec, load_encoder
from lary_policy.encoders.families import dino, siglip
from lary_policy.encoders.families.lapa import LaqVariant
from lary_policy.encoders.families.lapa.model import LaqConfig, LatentActionQuantiser
from lary_policy.encoders.families.lapa.weights import MAGVIT2, infer_config, load_magvit2, vit_front_end
from lary_policy.encoders.families.magvit2.model import Magvit2Config
from lary_policy.encoders.families.transformers_vit import TINY
from lary_policy.encoders.weights.resolve import Weights
from lary_policy.errors import WeightsMismatchError, WeightsMissingError

HERE = Weights("0" * 64, "a test")
SMALL = LaqConfig(
    dim=TINY["hidden_size"], code_width=8, spatial_depth=1, temporal_depth=2, heads=2, head_width=8
)
TINY_MAGVIT2 = Magvit2Config(base_channels=32, blocks=1)


def tiny_vit(spec, vit, prefix):
    return vit_front_end(spec, replace(vit, config={**vit.config, **TINY}), prefix)


VARIANTS = {
    "lapa": LaqVariant(replace(SMALL, code_seq_len=4, input_patch_px=32, output_patch_px=32), 32),
    "lapa-dinov2": LaqVariant(SMALL, 14, tiny_vit(dino.LARGE, dino.VITS["dinov2-large"], "dino_tokenizer.")),
    "lapa-dinov3": LaqVariant(
        SMALL, 16, tiny_vit(dino.DINOV3_SPECS[-1], dino.VITS["dinov3-large"], "dino_tokenizer.")
    ),
    "lapa-siglip2": LaqVariant(
        SMALL, 16, tiny_vit(siglip.BASE, siglip.VITS["siglip2-base"], "encoder.vision_model.")
    ),
    "lapa-magvit2": LaqVariant(
        replace(SMALL, dim=18, output_patch_px=16),
        16,
        replace(
            MAGVIT2,
            module=lambda tiny: MAGVIT2.module(True),
            pretrained=partial(load_magvit2, config=TINY_MAGVIT2),
        ),
    ),
}
CONTAINERS = {
    "bare.pt": lambda tensors: tensors,
    "distributed.pt": lambda tensors: {f"module.{key}": value for key, value in tensors.items()},
    "trainer.pt": lambda tensors: {"model": tensors, "steps": 100_000},
    "tensors.safetensors": lambda tensors: tensors,
}


def build(name, variant, weights, output="continuous"):
    spec = encoder_spec(name)
    options = EncoderOptions(
        str(weights), spec.image_px, "native", torch.float32, torch.device("cpu"), 0, output
    )
    return variant.build(spec, options)


def checkpoint(encoder, variant, embedded=True):
    """Return the state dict that the reference's trainer would write for an encoder's model."""
    tensors = dict(encoder.model.quantiser.state_dict())
    if embedded and variant.front_end:
        backbone = getattr(encoder.model.backbone, "backbone", None) or encoder.model.backbone.autoencoder
        for key, value in backbone.state_dict().items():
            # Published files have the names of older releases of transformers.
            tensors[variant.front_end.prefix + key.removeprefix("model.")] = value
    return tensors


def write(path, tensors):
    save = save_file if path.suffix == ".safetensors" else torch.save
    save(CONTAINERS.get(path.name, CONTAINERS["bare.pt"])(tensors), path)
    return path


@pytest.fixture
def frames():
    return torch.randint(
        0, 256, (1, 2, 60, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_container_with_the_frozen_network_inside_round_trips(name, container, tmp_path, frames):
    variant = VARIANTS[name]
    source = build(name, variant, "random")
    path = write(tmp_path / container, checkpoint(source, variant))
    loaded = build(name, variant, path)
    assert torch.equal(loaded.encode(frames), source.encode(frames))
    assert loaded.weights.source == f"local {container}"


@pytest.mark.parametrize("name", ["lapa-dinov3", "lapa-siglip2"])
def test_a_frozen_network_that_is_not_inside_comes_from_its_own_place(name, tmp_path, frames, monkeypatch):
    variant = VARIANTS[name]
    source = build(name, variant, "random")
    path = write(tmp_path / "bare.pt", checkpoint(source, variant, embedded=False))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(WeightsMissingError, match=variant.front_end.name):
        build(name, variant, path)

    hub = variant.front_end.weights.hub
    folder = tmp_path / "hub" / f"models--{hub.repo_id.replace('/', '--')}" / "snapshots" / hub.revision
    folder.mkdir(parents=True)
    save_file(source.model.backbone.backbone.state_dict(), folder / hub.filename)
    loaded = build(name, variant, path)
    assert torch.equal(loaded.encode(frames), source.encode(frames))
    assert variant.front_end.weights.hub.repo_id in loaded.weights.source
    # The record covers both files.
    assert loaded.weights.sha256 != hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(loaded.weights.sha256) == 64


@pytest.mark.parametrize(
    ("grid", "length"),
    [(8, 1), (8, 2), (7, 4), (8, 4), (14, 16), (16, 16), (14, 49), (16, 49), (14, 64), (16, 64), (32, 256)],
)
@pytest.mark.parametrize(("codes", "width"), [(8, 32), (64, 16), (256, 64)])
def test_shapes_tell_all_sizes(grid, length, codes, width):
    config = replace(SMALL, codes=codes, code_width=width, code_seq_len=length, temporal_depth=3)
    state = LatentActionQuantiser(config).state_dict()
    assert infer_config(state, grid, HERE) == config


def test_shapes_tell_the_patches_of_pixel_models():
    config = VARIANTS["lapa"].config
    assert infer_config(LatentActionQuantiser(config).state_dict(), 8, HERE) == config


def test_a_variant_takes_codebook_length_and_depth_from_its_checkpoint(tmp_path, frames):
    variant = VARIANTS["lapa-dinov3"]
    config = replace(SMALL, codes=64, code_width=16, code_seq_len=49, spatial_depth=2)
    source = build("lapa-dinov3", replace(variant, config=config), "random")
    loaded = build("lapa-dinov3", variant, write(tmp_path / "bare.pt", checkpoint(source, variant)))
    assert loaded.latent.tokens == 49
    assert loaded.spec.codebook == (64, 16)
    assert loaded.encode(frames).shape == (1, 1, 49, SMALL.dim)
    assert torch.equal(loaded.encode_indices(frames), source.encode_indices(frames))


def test_a_named_run_refuses_other_sizes_and_tells_those_of_the_file(tmp_path):
    variant = VARIANTS["lapa-dinov3"]
    path = write(tmp_path / "bare.pt", checkpoint(build("lapa-dinov3", variant, "random"), variant))
    run = replace(variant, config=replace(SMALL, codes=64, code_seq_len=49), exact=True)
    with pytest.raises(WeightsMismatchError) as caught:
        build("lapa-dinov3", run, path)
    message = str(caught.value)
    assert "vq.codebooks is (8, 8), model (64, 8)" in message
    assert "vq.cnn_encoder.2.weight not in the model" in message
    assert "codes 8, code_width 8, code_seq_len 16" in message


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda t: {"head.weight": torch.zeros(2)}, "vq.codebooks.*it has head.weight"),
        (lambda t: {k: v for k, v in t.items() if "norm_out" not in k}, "norm_out.gamma missing"),
        (lambda t: {**t, "magvit2_tokenizer.x": torch.zeros(1)}, "magvit2_tokenizer.x not in the model"),
        (lambda t: {**t, "vq.cnn_encoder.0.weight": torch.zeros(8, 8, 5, 5)}, r"\(5, 5\) and \(3, 3\)"),
        (lambda t: {**t, "vq.project_in.weight": torch.zeros(8, 48)}, r"\(8, 48\), model \(8, 32\).*dim 48"),
        (
            lambda t: {**t, "to_pixels_first_frame.0.weight": torch.zeros(768, 32)},
            "to_pixels_first_frame.0.weight not in the model.*output_patch_px 16",
        ),
    ],
    ids=["foreign", "incomplete", "other-front-end", "network", "width", "pixels"],
)
def test_what_does_not_fit_is_named(edit, says, tmp_path):
    variant = VARIANTS["lapa-dinov3"]
    tensors = edit(checkpoint(build("lapa-dinov3", variant, "random"), variant))
    with pytest.raises(WeightsMismatchError, match=says):
        build("lapa-dinov3", variant, write(tmp_path / "bare.pt", tensors))


def test_another_frozen_network_inside_is_refused(tmp_path):
    other = VARIANTS["lapa-dinov2"]
    path = write(tmp_path / "bare.pt", checkpoint(build("lapa-dinov2", other, "random"), other))
    with pytest.raises(WeightsMismatchError, match="register_tokens missing"):
        build("lapa-dinov3", VARIANTS["lapa-dinov3"], path)


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path):
    path = write(tmp_path / "bare.pt", {"embeddings.cls_token": torch.zeros(1, 1, 4)})
    with pytest.raises(WeightsMismatchError, match="latent action quantiser"):
        load_encoder("lapa", weights=str(path))
