"""DINOv2, DINOv3 and SigLIP 2 against the bare models of transformers, at toy sizes."""

import copy
from dataclasses import replace

import pytest
import torch
import transformers as hf

from lary_policy.encoders.base import encoder_spec, load_encoder
from lary_policy.encoders.families.dino import VITS as DINO
from lary_policy.encoders.families.siglip import VITS as SIGLIP
from lary_policy.encoders.families.transformers_vit import TINY, TransformersVit
from lary_policy.encoders.weights.resolve import Weights
from lary_policy.encoders.weights.tensors import read_tensors
from lary_policy.errors import WeightsMismatchError

VITS = {**DINO, **SIGLIP}
# One of each class: the sizes of a family share all code.
CLASSES = ("dinov2-small", "dinov2-with-registers-small", "dinov3-small", "siglip2-base")
ORIGIN = Weights("0" * 64, "test file")
every_class = pytest.mark.parametrize("name", CLASSES)


def tiny(name: str) -> TransformersVit:
    return replace(VITS[name], config={**VITS[name].config, **TINY})


@pytest.fixture
def images():
    return torch.rand(2, 3, 56 * 2, 56 * 2, generator=torch.Generator().manual_seed(0))


@every_class
def test_tokens_are_the_bare_models_without_what_stands_in_front(name, images):
    module = tiny(name).module().eval()
    kwargs = {"interpolate_pos_encoding": True} if name.startswith("siglip") else {}
    with torch.no_grad():
        tokens = module(images)
        bare = module.backbone(pixel_values=images, **kwargs).last_hidden_state
    side = 112 // encoder_spec(name).patch_px
    assert tokens.shape == (2, side * side, 32)
    assert torch.equal(tokens, bare[:, bare.shape[1] - side * side :])
    assert bare.shape[1] - side * side == module.prefix_tokens


@every_class
def test_a_saved_model_comes_back(name, tmp_path, images):
    vit = tiny(name)
    torch.manual_seed(1)
    module = vit.module().eval()
    module.backbone.save_pretrained(tmp_path)
    again = vit.pretrained(read_tensors(tmp_path / "model.safetensors"), ORIGIN).eval()
    with torch.no_grad():
        assert torch.equal(again(images), module(images))


@every_class
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, k: t.pop(k), "missing"),
        (lambda t, k: t.update({"extra.weight": torch.zeros(1)}), "extra.weight not in the model"),
        (lambda t, k: t.update({k: torch.zeros(7, 3)}), r"is \(7, 3\), model"),
    ],
    ids=["missing", "left-over", "shape"],
)
def test_what_does_not_fit_is_named(name, change, says):
    vit = tiny(name)
    tensors = {key: value.clone() for key, value in vit.module().backbone.state_dict().items()}
    change(tensors, next(key for key in tensors if "patch_embedding" in key and key.endswith("weight")))
    with pytest.raises(WeightsMismatchError, match=says):
        vit.pretrained(tensors, ORIGIN)


def test_siglip_is_taken_out_of_the_model_of_images_and_text(images):
    vit = tiny("siglip2-base")
    vision = {**vit.config}
    both = hf.SiglipModel(
        hf.SiglipConfig(text_config={**TINY, "vocab_size": 40}, vision_config=vision)
    ).eval()
    tensors = {f"vision_model.{key}": value for key, value in both.vision_model.state_dict().items()} | {
        f"text_model.{key}": value for key, value in both.text_model.state_dict().items()
    }
    module = vit.pretrained({**tensors, "logit_scale": both.logit_scale}, ORIGIN).eval()
    with torch.no_grad():
        expected = both.vision_model(images, interpolate_pos_encoding=True).last_hidden_state
        assert torch.equal(module(images), expected)
        # The pooling head is loaded and counted, but not run.
        assert module.backbone(images, interpolate_pos_encoding=True).pooler_output is None


def test_dinov3_reads_the_published_names():
    vit = tiny("dinov3-small")
    tensors = vit.module().backbone.state_dict()
    published = {key.removeprefix("model."): value for key, value in tensors.items()}
    assert any(key.startswith("layer.0.") for key in published)
    loaded = vit.pretrained(published, ORIGIN).backbone.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in tensors.items())


@pytest.mark.parametrize("name", [*DINO, *SIGLIP])
def test_toy_twins_have_the_same_classes(name):
    with torch.device("meta"):
        whole = load_encoder(name, weights="random", device="meta").model
    toy = load_encoder(name, weights="tiny-random").model
    assert {type(m) for m in whole.modules()} == {type(m) for m in toy.modules()}
    assert toy.prefix_tokens == whole.prefix_tokens


def test_packed_layers_are_ordinary_ones_that_take_less_time():
    packed = load_encoder("dinov2-small", weights="tiny-random", image_px=56, dtype="bfloat16")
    plain = load_encoder("dinov2-small", weights="tiny-random", image_px=56, dtype="bfloat16")
    layers = [module for module in plain.model.modules() if isinstance(module, torch.nn.Linear)]
    for layer in layers:
        layer.__class__ = torch.nn.Linear
    frames = torch.randint(0, 256, (3, 1, 56, 56, 3), dtype=torch.uint8)

    def same(one=packed) -> bool:  # to the bit where this was written; other processors may round otherwise
        return torch.allclose(one.encode(frames).float(), plain.encode(frames).float(), rtol=0.02, atol=0.02)

    assert same()
    assert same(copy.deepcopy(packed))
    for encoder in (packed, plain):  # other weights at the same place
        with torch.no_grad():
            next(m for m in encoder.model.modules() if isinstance(m, torch.nn.Linear)).weight.mul_(-2)
    assert same()
    assert packed.model.state_dict().keys() == plain.model.state_dict().keys()
    packed.model.requires_grad_(True)
    packed.encode(frames).float().square().mean().backward()
    assert all(p.grad is not None for n, p in packed.model.named_parameters() if n.endswith("key.weight"))
