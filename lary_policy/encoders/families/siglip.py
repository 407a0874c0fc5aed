"""SigLIP 2 ViT-B/16 at 224 px: the vision tower without its text tower, through transformers."""

from __future__ import annotations

from lary_policy.encoders.families.transformers_vit import TransformersVit, register_vits
from lary_policy.encoders.preprocess import HALF, Preprocess
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import HubRepo, WeightsSource
from lary_policy.types import LatentSpec

BASE = EncoderSpec(
    name="siglip2-base",
    family="semantic",
    weights=WeightsSource(
        hub=HubRepo("google/siglip2-base-patch16-224", "75de2d55ec2d0b4efc50b3e9ad70dba96a7b2fa2")
    ),
    image_px=224,
    patch_px=16,
    size_multiple=16,
    latent=LatentSpec("frame", tokens=196, width=768, grid=(1, 14, 14)),
    preprocess={
        "native": Preprocess(HALF, HALF, interpolation="bilinear"),
        # The reference feeds [0, 1] after OpenCV's cubic resize, which does not antialias.
        "lary": Preprocess(antialias=False),
    },
    licence="Apache-2.0",
    paper="arXiv:2502.14786",
    # With the pooling head, as in the paper's table; `encode` does not run it.
    params_m=92.88,
    gflops_per_frame=34.94,
    reference_key="siglip2-origin",
    depth=12,
)

# Architectures by registry name; latent action models take their frozen backbones from here.
VITS = {
    BASE.name: TransformersVit(
        "SiglipVisionModel",
        config={
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "image_size": 224,
            "patch_size": 16,
        },
        prefix_tokens=0,
        call={"interpolate_pos_encoding": True},
        subtree="vision_model.",
        # The head pools the tokens into one vector, which nothing here uses.
        settings={"use_head": False},
    ),
}

register_vits((BASE,), VITS)
