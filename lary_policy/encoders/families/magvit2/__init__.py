"""Open-MAGVIT2's features in front of its quantiser, as a frame encoder of their own."""

from __future__ import annotations

from functools import partial

from lary_policy.encoders.base import EncoderOptions, register_encoder
from lary_policy.encoders.families.magvit2.model import (
    Magvit2Autoencoder,
    Magvit2Config,
    Magvit2Encoder,
    magvit2_tensors,
)
from lary_policy.encoders.kinds import FrameEncoder
from lary_policy.encoders.modules import FeatureMapTokens, module_with_weights
from lary_policy.encoders.preprocess import HALF, Preprocess
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import HubRepo, WeightsSource
from lary_policy.types import LatentSpec

OPEN_MAGVIT2 = EncoderSpec(
    name="open-magvit2",
    family="pixel",
    weights=WeightsSource(
        # No commit hash of this repository is known for certain.
        hub=HubRepo(
            "TencentARC/Open-MAGVIT2-Tokenizer-262144-Pretrain",
            revision=None,
            filename="pretrain256_262144.ckpt",
        )
    ),
    image_px=256,
    patch_px=16,
    size_multiple=16,
    latent=LatentSpec("frame", tokens=256, width=18, grid=(1, 16, 16)),
    preprocess={
        "native": Preprocess(HALF, HALF),
        # What the reference feeds to the same network inside its latent action model.
        "lary": Preprocess(antialias=False),
    },
    licence="Apache-2.0",
    paper="arXiv:2409.04410",
    # The encoder alone; with the decoder, which is never run, there are 115.13 M.
    params_m=49.75,
    gflops_per_frame=266.24,
    lary_image_px=224,
)

# Sizes of the toy model for `weights=tiny-random`; group norms need 32 channels.
TINY = Magvit2Config(base_channels=32, multipliers=(1, 1, 1, 1, 1), blocks=1)


@register_encoder(OPEN_MAGVIT2, tiny=True)
def build_open_magvit2(spec: EncoderSpec, options: EncoderOptions) -> FrameEncoder:
    """Build the encoder from random weights, or from a published checkpoint.

    The averaged weights are taken where the checkpoint has them, except under `preprocess=lary`, because the
    reference runs the raw ones.
    """
    averaged = options.preprocess != "lary"
    encoder, weights = module_with_weights(
        Magvit2Encoder,
        spec,
        options,
        rename=lambda tensors, _: magvit2_tensors(tensors, "encoder", ema=averaged),
        tiny=partial(Magvit2Encoder, TINY),
    )
    return FrameEncoder(spec, options, FeatureMapTokens(encoder), weights)


__all__ = [
    "OPEN_MAGVIT2",
    "Magvit2Autoencoder",
    "Magvit2Config",
    "magvit2_tensors",
]
