"""Raw pixels as tokens: the floor every learned encoder has to beat."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions, register_encoder
from lary_policy.encoders.kinds import FrameEncoder
from lary_policy.encoders.preprocess import Preprocess
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import NO_WEIGHTS, WeightsSource
from lary_policy.errors import ConfigError
from lary_policy.types import LatentSpec

PATCH_PX = 14  # DINOv2's patches, so that both encoders give the same number of tokens

PIXELS = EncoderSpec(
    name="pixels",
    family="pixel",
    weights=WeightsSource(),
    image_px=224,
    patch_px=PATCH_PX,
    size_multiple=PATCH_PX,
    latent=LatentSpec("frame", tokens=256, width=588, grid=(1, 16, 16)),
    preprocess={"native": Preprocess()},
    auto_dtype="float32",
    licence="none",
    paper="none",
    params_m=0.0,
    gflops_per_frame=0.0,
)


class PatchPixels(nn.Module):
    """Cuts images into patches: [b 3 h w] -> [b n 3*patch*patch], each token channel-major (c, y, x)."""

    def __init__(self, patch_px: int) -> None:
        super().__init__()
        self.patch_px = patch_px

    def forward(self, images: Tensor) -> Tensor:
        """Return the pixel values of each patch, row by row."""
        return F.pixel_unshuffle(images, self.patch_px).flatten(2).mT


@register_encoder(PIXELS)
def build_pixels(spec: EncoderSpec, options: EncoderOptions) -> FrameEncoder:
    """Build the pixel encoder; `auto` and `random` weights are the same, there are none.

    Raises:
        ConfigError: A weight file was given.
    """
    if options.weights not in ("auto", "random"):
        raise ConfigError(
            expected="no weights for 'pixels'", got=f"weights={options.weights}", fix="Use weights=auto."
        )
    return FrameEncoder(spec, options, PatchPixels(PATCH_PX), NO_WEIGHTS)
