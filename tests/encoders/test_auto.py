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
            hf.Dinov2WithRegistersConfig(
                **{k: v for k, v in SMALL.items() if k != "intermediate_size"},
                image_size=32,
                patch_size=8,
                num_register_tokens=3,
            )
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


CROPPED = {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
PROCESSORS = {
    "ViTImageProcessor": {},
    "CLIPImageProcessor": {**CROPPED, "size": {"shortest_edge": 32}, "resample": 3},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 32}, "crop_pct": 0.875, "resample": 3},
    "DeiTImageProcessor": {**CROPPED, "size": {"height": 36, "width": 36}, "resample": 3},
    "EfficientNetImageProcessor": {"rescale_factor": 1 / 127.5, "rescale_offset": True, "resample": 3},
    "LevitImageProcessor": {**CROPPED, "size": {"shortest_edge": 32}, "resample": 3},
    "MobileNetV2ImageProcessor": {**CROPPED, "size": {"shortest_edge": 37}},
    "MobileViTImageProcessor": {
        **CROPPED, "size": {"shortest_edge": 36}, "do_flip_channel_order": True, "do_normalize": False,
    },
    "PoolFormerImageProcessor": {**CROPPED, "size": {"shortest_edge": 32}, "crop_pct": 0.9, "resample": 3},
    "SiglipImageProcessor": {"resample": 3, "do_rescale": False},
    "ViTImageProcessorPil": {"resample": 1, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
}  # fmt: skip


@pytest.mark.parametrize("kind", PROCESSORS)
def test_pixels_are_those_of_the_models_own_processor(kind, tmp_path, photo):
    name = save(MODELS["vit"][0], tmp_path, image_processor_type=kind, **PROCESSORS[kind])
    processor = hf.AutoImageProcessor.from_pretrained(tmp_path)
    spec = encoder_spec(name)
    pipeline = spec.preprocess["native"]
    assert spec.image_px == 32
    std = torch.tensor(pipeline.std).view(3, 1, 1) * 255
    for shape in ((48, 64), (64, 48), (33, 90), (101, 55), (20, 24)):
        # Little contrast: Pillow and torch clip what overshoots at different steps.
        image = photo(*shape) // 2 + 64
        theirs = processor(images=image.numpy(), return_tensors="pt")["pixel_values"][0]
        ours = prepare_frames(
            image[None, None], 32, pipeline, device=torch.device("cpu"), dtype=torch.float32
        )[0]
        assert float(((ours - theirs).abs() * std).max()) <= 1.001, shape
    if kind == "MobileViTImageProcessor":
        red = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(1, 1, 40, 40, 3)
        pixels = prepare_frames(red, 32, pipeline, device=torch.device("cpu"), dtype=torch.float32)[0]
        assert pixels[:, 16, 16].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("processor", "says"),
    [
        ({"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32},
          "do_center_crop": False}, "shape"),
        ({"image_processor_type": "DetrImageProcessor", "size": {"shortest_edge": 32, "longest_edge": 64}},
         "shape"),
        ({"image_processor_type": "PerceiverImageProcessor", **CROPPED}, "grey levels"),
        ({"image_processor_type": "CLIPImageProcessor", **CROPPED, "size": {"shortest_edge": 24}}, "padding"),
        ({"size": {"height": 32, "width": 48}}, "shape"),
        ({"size": {"height": 90_000, "width": 90_000}}, "a side of 90000 px"),
        ({"size": 10**30}, "size 10"),
        ({"auto_map": {"AutoImageProcessor": "code.Evil"}}, "auto_map"),
        ({"image_processor_type": "os.system"}, "image processor"),
        ({"image_mean": [0.5, 0.5]}, "pipeline"),
        ({"resample": 0}, "grey levels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_processors_that_no_pipeline_equals_are_refused(processor, says, tmp_path):
    name = save(MODELS["vit"][0], tmp_path, **processor)
    with pytest.raises(ConfigError, match=says):
        encoder_spec(name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layer_scale_init_value": 1e-5}, "keys that transformers reads.*layer_scale_init_value"),
        ({"_attn_implementation": "evil/kernel"}, "_attn_implementation"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config"),
        ({"auto_map": {"AutoModel": "code.Evil"}}, "auto_map"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
        ({"num_labels": 10**12}, "num_labels"),
        ({"hidden_size": 10**6, "intermediate_size": 10**6}, "parameters"),
        ({"hidden_size": -4}, "got"),
        ({"patch_size": "x"}, "got"),
    ],
)
def test_configurations_that_cannot_be_meant_are_refused(change, says, tmp_path):
    name = save(MODELS["vit"][0], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigError, match=says):
        encoder_spec(name)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '"text"', "\udcff"])
def test_a_configuration_that_is_no_json_object_is_refused(content, tmp_path):
    name = save(MODELS["vit"][0], tmp_path)
    (tmp_path / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match="JSON object"):
        encoder_spec(name)


def test_a_tensor_that_nobody_claims_is_refused(tmp_path):
    name = save(MODELS["vit-classifier"][0], tmp_path)
    state = MODELS["vit-classifier"][0].state_dict()
    load_encoder(name)  # the classifier is left out
    save_file({**state, "vit.layer_scale": torch.ones(32)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatchError, match="layer_scale not in the model"):
        load_encoder(name)


def test_quantised_weights_are_not_read_without_their_scale(tmp_path):
    model = MODELS["vit"][0]
    name = save(model, tmp_path)
    whole = {key: value.to(torch.int8).contiguous() for key, value in model.state_dict().items()}
    save_file(whole, tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatchError, match=r"is torch.int8, model torch.float32"):
        load_encoder(name)


def timm_folder(folder, model, **config) -> str:
    save_file(model.state_dict(), folder / "model.safetensors")
    written = {"architecture": "test_vit", "pretrained_cfg": model.pretrained_cfg, **config}
    (folder / "config.json").write_text(json.dumps(written))
    return f"auto:{folder}"


def test_timms_model_arguments_are_honoured(tmp_path, photo):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", init_values=0.3, num_classes=7).eval()
    with pytest.raises(WeightsMismatchError, match=r"ls1\.gamma not in the model"):
        load_encoder(timm_folder(tmp_path, model))
    name = timm_folder(tmp_path, model, model_args={"init_values": 0.3}, num_classes=7)
    encoder = load_encoder(name)
    frames = photo(160, 160)[None, None]
    images = encoder.prepared(frames, video=False)
    with torch.no_grad():
        expected = model.forward_features(images)[:, -encoder.latent.tokens :]
    torch.testing.assert_close(encoder.encode(frames)[0], expected, rtol=1e-4, atol=1e-4)
    inner = load_encoder(name, layer=1)
    with torch.no_grad():
        first = model.norm(model.blocks[0](model.norm_pre(model._pos_embed(model.patch_embed(images)))))
    torch.testing.assert_close(
        inner.encode(frames)[0], first[:, -inner.latent.tokens :], rtol=1e-4, atol=1e-4
    )
    with pytest.raises(ConfigError, match=f"from 1 to {len(model.blocks)}"):
        load_encoder(name, layer=len(model.blocks) + 1)


@pytest.mark.parametrize("image_px", [160, 96])
def test_positions_of_a_timm_model_of_any_size_are_resampled_once(image_px, tmp_path, photo):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", dynamic_img_size=True, num_classes=7).eval()
    name = timm_folder(tmp_path, model, model_args={"dynamic_img_size": True}, num_classes=7)
    encoder = load_encoder(name, image_px=image_px)
    frames = photo(160, 160)[None, None]
    with torch.no_grad():
        expected = model.forward_features(encoder.prepared(frames, video=False))[:, 1:]
    assert encoder.latent.tokens == expected.shape[1] == (image_px // 16) ** 2
    torch.testing.assert_close(encoder.encode(frames)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"layer_scale": 1}, "layer_scale"),
        ({"pretrained_cfg": {"flip_channels": True}}, "flip_channels"),
        ({"pretrained_cfg": {}, "model_args": {"checkpoint_path": "evil.pth"}}, "model_args.checkpoint_path"),
        ({"pretrained_cfg": {}, "model_args": {"pretrained": True}}, "model_args.pretrained"),
        ({"pretrained_cfg": {}, "model_args": {"depth": 10**9}}, "depth"),
        ({"pretrained_cfg": {}, "model_args": [1]}, "model_args as an object"),
        ({"pretrained_cfg": None}, "pretrained_cfg as an object"),
        ({"pretrained_cfg": {}, "model_args": {"no_such_argument": 1}}, "no_such_argument"),
        ({"pretrained_cfg": {"crop_mode": "border", "crop_pct": 0.5}}, "crop"),
        ({"pretrained_cfg": {"input_size": [3, 64, 96]}}, "shape"),
        ({"pretrained_cfg": {"input_size": [3, 90_000, 90_000]}}, "a side of 90000 px"),
    ],
)
def test_timm_configurations_that_cannot_be_honoured_are_refused(config, says, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit", **config}))
    with pytest.raises(ConfigError, match=says):
        load_encoder(f"auto:{tmp_path}", weights="random")


@pytest.mark.parametrize(
    "config", [{"crop_mode": "squash", "crop_pct": 0.9}, {"crop_pct": 0.83}, {"interpolation": "bilinear"}]
)
def test_timms_own_transform_decides_the_pixels(config, tmp_path, photo):
    data = {"input_size": [3, 160, 160], **config}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": data}))
    pipeline = encoder_spec(f"auto:{tmp_path}").preprocess["native"]
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=data))
    std = torch.tensor(pipeline.std).view(3, 1, 1) * 255
    for shape in ((240, 320), (301, 203), (90, 120)):
        image = photo(*shape) // 2 + 64
        theirs = transform(Image.fromarray(image.numpy()))
        ours = prepare_frames(
            image[None, None], 160, pipeline, device=torch.device("cpu"), dtype=torch.float32
        )[0]
        assert float(((ours - theirs).abs() * std).max()) <= 1.001, shape
