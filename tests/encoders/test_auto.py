"""`auto:` models: small ones of transformers and timm, saved to a folder as their libraries save them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import transformers as hf
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file

from lary_policy.encoders import weights_status
from lary_policy.encoders.base import encoder_spec, load_encoder
from lary_policy.encoders.preprocess import prepare_frames
from lary_policy.errors import (
    ConfigError,
    FrameFormatError,
    UnknownNameError,
    WeightsMismatchError,
    WeightsMissingError,
)

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
VIT = hf.ViTConfig(**SMALL, image_size=32, patch_size=8)
MODELS = {
    "vit": (hf.ViTModel(VIT, add_pooling_layer=False), (16, 32)),
    "vit-classifier": (hf.ViTForImageClassification(VIT), (16, 32)),
    "dinov2-registers": (
        hf.Dinov2WithRegistersModel(
            hf.Dinov2WithRegistersConfig(**SMALL, image_size=32, patch_size=8, num_register_tokens=3)
        ),
        (16, 32),
    ),
    "clip": (
        hf.CLIPModel(
            hf.CLIPConfig(
                text_config={**SMALL, "vocab_size": 50},
                vision_config={**SMALL, "image_size": 32, "patch_size": 8},
            )
        ),
        (16, 32),
    ),
    "resnet": (
        hf.ResNetModel(
            hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 24], depths=[1, 1], layer_type="basic")
        ),
        (16, 24),
    ),
    "vitdet-backbone": (
        hf.VitDetBackbone(
            hf.VitDetConfig(
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=32,
                pretrain_image_size=32,
                patch_size=8,
            )
        ),
        (16, 32),
    ),
}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.4],
}


def save(model, folder, **processor) -> str:
    model.eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **processor}))
    return f"auto:{folder}"


@pytest.fixture
def frames(photo):
    return torch.stack([photo(32, 32), photo(32, 32).flip(1)])[:, None]


@pytest.mark.parametrize("name", MODELS)
def test_latents_are_the_models_own_last_features(name, tmp_path, frames):
    model, (tokens, width) = MODELS[name]
    encoder = load_encoder(save(model, tmp_path))
    assert (encoder.latent.tokens, encoder.latent.width) == (tokens, width)
    assert encoder.latent.grid == (1, 4, 4)
    mean, std = (torch.tensor(PROCESSOR[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    images = (frames[:, 0].movedim(-1, 1) / 255 - mean) / std
    tower = getattr(model, "vision_model", None) or getattr(model, "vit", model)
    with torch.no_grad():
        output = tower(pixel_values=images)
    features = getattr(output, "feature_maps", None)
    expected = features[-1] if features else output.last_hidden_state
    expected = expected.flatten(2).mT if expected.ndim == 4 else expected[:, -tokens:]
    torch.testing.assert_close(encoder.encode(frames)[:, 0], expected, rtol=1e-5, atol=1e-5)
    assert encoder.weights.source == "local model.safetensors"


def test_spec_and_weights_status_need_no_download(tmp_path):
    name = save(MODELS["vit"][0], tmp_path)
    spec = encoder_spec(name)
    assert (spec.name, spec.image_px, spec.patch_px, spec.size_multiple) == (name, 32, 8, 8)
    assert spec.params_m == pytest.approx(sum(p.numel() for p in MODELS["vit"][0].parameters()) / 1e6)
    assert spec.gflops_per_frame > 0
    status = weights_status(name)
    assert status.available
    assert status.sha256 == load_encoder(name).weights.sha256
    (tmp_path / "model.safetensors").unlink()
    assert not weights_status(name).available
    with pytest.raises(WeightsMissingError, match=r"no model\.safetensors"):
        load_encoder(name)
    assert load_encoder(name, weights="random").latent == spec.latent


def test_other_input_sizes_follow_the_forward_pass(tmp_path, frames):
    name = save(MODELS["vit"][0], tmp_path)
    encoder = load_encoder(name, image_px=48)
    assert encoder.latent.grid == (1, 6, 6)
    assert encoder.encode(frames).shape == (2, 1, 36, 32)
    with pytest.raises(ConfigError, match="multiple of 8"):
        load_encoder(name, image_px=50)


def test_an_edited_configuration_is_seen(tmp_path):
    name = save(MODELS["vit"][0], tmp_path)
    assert encoder_spec(name).latent.width == 32
    (tmp_path / "config.json").unlink()
    save(hf.ViTModel(hf.ViTConfig(**{**SMALL, "hidden_size": 48}, image_size=32, patch_size=8)), tmp_path)
    assert encoder_spec(name).latent.width == 48


def test_the_processors_crop_is_used(tmp_path, photo):
    name = save(
        MODELS["vit"][0],
        tmp_path,
        image_processor_type="CLIPImageProcessor",
        size={"shortest_edge": 40},
        crop_size={"height": 32, "width": 32},
        do_center_crop=True,
        resample=3,
    )
    preprocess = encoder_spec(name).preprocess["native"]
    assert (preprocess.interpolation, preprocess.crop) == ("bicubic", (40, 32))
    image = photo(60, 90)
    resized = np.asarray(Image.fromarray(image.numpy()).resize((60, 40), Image.Resampling.BICUBIC))
    cropped = torch.from_numpy(resized[4:36, 14:46].copy())
    squash = replace(preprocess, crop=None)
    ours, theirs = (
        prepare_frames(x[None, None], 32, p, device=torch.device("cpu"), dtype=torch.float32)
        for x, p in ((image, preprocess), (cropped, squash))
    )
    assert float((ours - theirs).abs().max()) <= 1 / 255 / 0.2 * 1.01


def test_a_checkpoint_with_missing_or_other_tensors_is_refused(tmp_path):
    name = save(MODELS["vit"][0], tmp_path)
    state = dict(MODELS["vit"][0].state_dict())
    state["layernorm.weight"] = torch.zeros(7)
    del state["embeddings.cls_token"]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WeightsMismatchError, match=r"cls_token missing; layernorm\.weight is \(7,\)"):
        load_encoder(name, weights=str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "bert", **SMALL, "vocab_size": 50}, "vision model"),
        (
            {"model_type": "evil", "auto_map": {"AutoConfig": "code.Evil", "AutoModel": "code.Evil"}},
            "without code of its own",
        ),
        ({"model_type": "vit_mae", **SMALL, "image_size": 32, "patch_size": 8}, "the same way twice"),
    ],
    ids=["text", "remote-code", "random-masks"],
)
def test_models_that_are_no_encoders_are_refused(tmp_path, config, says):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise AssertionError('code of a repository must never run')")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    with pytest.raises(ConfigError, match=says):
        load_encoder(f"auto:{tmp_path}", weights="random")


def test_a_folder_without_an_image_processor_is_refused(tmp_path):
    MODELS["vit"][0].save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="image processor"):
        encoder_spec(f"auto:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("auto:", "Examples: auto:facebook/dinov2-small"),
        ("auto:a/b/c", "Examples"),
        ("auto:./not-there", "is no folder"),
        ("auto:facebook/dinov2-small", r"hf download facebook/dinov2-small"),
    ],
)
def test_names_that_lead_nowhere_say_what_to_write(name, says, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=says):
        encoder_spec(name)


def test_a_hub_id_is_read_from_the_cache(tmp_path, monkeypatch, frames):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--someone--vit"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    local = load_encoder(save(MODELS["vit"][0], snapshot))
    encoder = load_encoder("auto:someone/vit")
    assert torch.equal(encoder.encode(frames), local.encode(frames))
    assert encoder.weights.source == "hub cache someone/vit@unpinned"
    assert encoder.weights.sha256 == local.weights.sha256


@pytest.mark.parametrize(
    ("name", "latent"),
    [
        ("vit_tiny_patch16_224", (196, 192)),
        ("convnext_atto", (49, 320)),
        ("swin_tiny_patch4_window7_224", (49, 768)),
        ("test_vit", (100, 64)),
        ("test_resnet", (25, 96)),
    ],
)
def test_any_timm_name_works(name, latent):
    spec = encoder_spec(f"auto:{name}")
    data = timm.data.resolve_model_data_config(timm.create_model(name))
    assert (spec.latent.tokens, spec.latent.width) == latent
    assert spec.image_px == data["input_size"][-1]
    assert spec.preprocess["native"].mean == data["mean"]
    assert spec.preprocess["native"].interpolation == data["interpolation"]
    assert spec.weights.hub.repo_id.startswith(f"timm/{name}")


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_timm_weights_are_loaded_strictly(name, tmp_path, photo):
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": name, "pretrained_cfg": model.pretrained_cfg})
    )
    px = encoder_spec(f"auto:{name}").image_px
    encoder = load_encoder(f"auto:{tmp_path}")
    frames = photo(px, px)[None, None]
    preprocess = encoder.spec.preprocess["native"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    scaled = load_encoder(f"auto:{name}", weights=str(tmp_path))
    assert torch.equal(scaled.encode(frames), encoder.encode(frames))
    with torch.no_grad():
        expected = model.forward_features((frames[:, 0].movedim(-1, 1) / 255 - mean) / std)
    expected = expected.flatten(2).mT if expected.ndim == 4 else expected[:, -encoder.latent.tokens :]
    if preprocess.crop is None or preprocess.crop[0] == px:
        torch.testing.assert_close(encoder.encode(frames)[0], expected, rtol=1e-4, atol=1e-4)
    state = {
        key: value for key, value in model.state_dict().items() if "conv1" not in key and "norm1" not in key
    }
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(WeightsMismatchError, match=r"conv1|norm1"):
        load_encoder(f"auto:{name}", weights=str(tmp_path / "cut.safetensors"))


def test_a_typo_in_a_timm_name_lists_close_ones():
    with pytest.raises(UnknownNameError, match="Did you mean 'vit_tiny_patch16_224'"):
        encoder_spec("auto:vit_tiny_patch16_22")
    with pytest.raises(UnknownNameError, match="vision_transformer"):
        encoder_spec("auto:qqqqqq")


def test_wrong_frames_are_refused_as_everywhere(tmp_path, frames):
    with pytest.raises(FrameFormatError, match="float32"):
        load_encoder(save(MODELS["vit"][0], tmp_path)).encode(frames / 255)
