"""UniVLA's task-centric latent action model: four tokens for what changed between two frames."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions, register_encoder
from lary_policy.encoders.families.dino import VITS
from lary_policy.encoders.families.transformers_vit import TINY as TINY_VIT
from lary_policy.encoders.families.transformers_vit import TransformersVit
from lary_policy.encoders.families.univla.model import UniVlaConfig, UniVlaModel
from lary_policy.encoders.families.univla.trained import (
    UNIVLA_FILE,
    univla_tensors,
)
from lary_policy.encoders.kinds import PairEncoder
from lary_policy.encoders.modules import drawn_or_loaded
from lary_policy.encoders.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import (
    HubRepo,
    Weights,
    WeightsSource,
    load_strictly,
    read_tensors,
    rename,
    split_prefix,
    strip_prefixes,
)
from lary_policy.types import LatentSpec

UNIVLA = EncoderSpec(
    name="univla",
    family="embodied-lam",
    # The commit that a public project names as its snapshot of this repository.
    weights=WeightsSource(
        hub=HubRepo(
            "qwbu/univla-latent-action-model",
            revision="b5401d195f9f2ed443202ad1bbdf8c191b557242",
            filename="lam-stage-2.ckpt",
        )
    ),
    image_px=224,
    patch_px=None,
    size_multiple=14,
    latent=LatentSpec("pair", tokens=4, width=128),
    preprocess={
        # UniVLA's data pipeline shrinks frames with an antialiased Lanczos kernel.
        "native": Preprocess(IMAGENET_MEAN, IMAGENET_STD, interpolation="lanczos"),
        # The reference resizes with OpenCV's cubic kernel, which does not antialias.
        "lary": Preprocess(IMAGENET_MEAN, IMAGENET_STD, antialias=False),
    },
    licence="Apache-2.0",
    paper="arXiv:2505.06111",
    params_m=287.75,
    gflops_per_frame=109.78,
    reference_key="univla",
    outputs=("continuous", "quantised"),
    lary_output="quantised",
    codebook=(16, 128),
)

# The frozen backbone, as published.
BACKBONE = VITS["dinov2-with-registers-base"]
BACKBONE_PREFIX = "dino_encoder."
PREFIXES = ("module.", "lam.")  # of DistributedDataParallel and of the Lightning module

TINY = UniVlaConfig(
    feature_width=TINY_VIT["hidden_size"],
    width=24,
    heads=2,
    encoder_depth=2,
    decoder_depth=1,
    codes=16,
    code_width=8,
)

# torch.hub's names of a DINOv2 model -> those of the checkpoints that transformers reads.
HUB_NAMES = (
    (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
    (r"^norm\.", "layernorm."),
)


@register_encoder(UNIVLA, tiny=True)
def build_univla(spec: EncoderSpec, options: EncoderOptions) -> PairEncoder:
    """Build UniVLA's latent action model from random weights or from the checkpoint of its second stage."""
    model, weights = drawn_or_loaded(
        spec,
        options,
        lambda tiny: UniVlaModel(TINY if tiny else UniVlaConfig(), BACKBONE.module(tiny)),
        lambda path, origin: from_checkpoint(read_tensors(path), origin, UniVlaConfig(), BACKBONE),
    )
    sizes = model.config
    spec = replace(spec, codebook=(sizes.codes, sizes.code_width))
    latent = replace(spec.latent_at(options.image_px), width=sizes.code_width)
    return PairEncoder(spec, options, model, weights, latent)


def from_checkpoint(
    tensors: Mapping[str, Tensor], origin: Weights, config: UniVlaConfig, backbone: TransformersVit
) -> UniVlaModel:
    """Return the model with the tensors of a published checkpoint, its backbone's included.

    Raises:
        WeightsMismatchError: A tensor is missing, left over or of another shape.
    """
    own, hub = split_prefix(strip_prefixes(tensors, PREFIXES), [BACKBONE_PREFIX])
    model = UniVlaModel(config, nn.Identity())
    load_strictly(model, own, origin)
    model.dino_encoder = backbone.pretrained(to_transformers_names(hub), origin)
    return model


def to_transformers_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a DINOv2 state dict of torch.hub under the names of the checkpoints that transformers reads."""
    split: dict[str, Tensor] = {}
    for name, value in tensors.items():
        joint = re.fullmatch(r"(.*)\.attn\.qkv\.(weight|bias)", name)
        if joint is None:
            split[name] = value
            continue
        block, kind = joint.groups()
        for part, tensor in zip(("query", "key", "value"), value.chunk(3), strict=True):
            split[f"{block}.attention.attention.{part}.{kind}"] = tensor.contiguous()
    return rename(split, HUB_NAMES)


__all__ = [
    "UNIVLA",
    "UNIVLA_FILE",
    "UniVlaConfig",
    "UniVlaModel",
    "univla_tensors",
]
