"""FLUX.2's image autoencoder: 128 channels on a stride-16 grid; through diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions, register_encoder
from lary_policy.encoders.kinds import FrameEncoder
from lary_policy.encoders.modules import encoder_half, module_with_weights
from lary_policy.encoders.preprocess import HALF, Preprocess
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import HubRepo, WeightsSource, rename
from lary_policy.types import LatentSpec

# The reference applies 2x - 1 to 0..255 where it reads single images, so that the input spans [-1, 509].
HALF_LEVEL = (0.5 / 255,) * 3
# Where it reads videos it scales to [0, 1] first, and resizes with OpenCV's cubic instead of Lanczos.
LARY_CLIP = Preprocess(HALF, HALF, antialias=False)
LARY_PAIR = Preprocess(HALF_LEVEL, HALF_LEVEL, interpolation="lanczos", video=LARY_CLIP)

FLUX2 = EncoderSpec(
    name="flux2-vae",
    family="pixel",
    weights=WeightsSource(
        # The commit that independent public projects name as their snapshot of this repository.
        hub=HubRepo(
            "black-forest-labs/FLUX.2-dev",
            revision="26afe3a78bb242c0a8bb181dcc8937bb16e5c66c",
            filename="vae/diffusion_pytorch_model.safetensors",
            gated=True,
        )
    ),
    image_px=224,
    patch_px=16,
    size_multiple=16,
    latent=LatentSpec("frame", tokens=196, width=128, grid=(1, 14, 14)),
    preprocess={"native": Preprocess(HALF, HALF, interpolation="lanczos"), "lary": LARY_PAIR},
    dtype="bfloat16",
    licence="LicenseRef-FLUX-2-Dev-Non-Commercial",
    paper="https://bfl.ai/blog/flux-2",
    # The encoder alone; with the decoder, which is never run, there are 84.05 M.
    params_m=34.43,
    gflops_per_frame=208.84,
    reference_key="flux2",
)

# Sizes of the toy model for `weights=tiny-random`; group norms need 32 channels.
TINY = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
NARROWEST = (32, 32, 32, 32)

# Names of the published `ae.safetensors` -> diffusers.
UPSTREAM_NAMES = (
    (r"^encoder\.quant_conv\.", "quant_conv."),
    (r"^encoder\.down\.(\d+)\.block\.(\d+)\.", r"encoder.down_blocks.\1.resnets.\2."),
    (r"^encoder\.down\.(\d+)\.downsample\.conv\.", r"encoder.down_blocks.\1.downsamplers.0.conv."),
    (r"^encoder\.mid\.block_1\.", "encoder.mid_block.resnets.0."),
    (r"^encoder\.mid\.block_2\.", "encoder.mid_block.resnets.1."),
    (r"^encoder\.mid\.attn_1\.norm\.", "encoder.mid_block.attentions.0.group_norm."),
    (r"^encoder\.mid\.attn_1\.([qkv])\.", r"encoder.mid_block.attentions.0.to_\1."),
    (r"^encoder\.mid\.attn_1\.proj_out\.", "encoder.mid_block.attentions.0.to_out.0."),
    (r"^encoder\.norm_out\.", "encoder.conv_norm_out."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
)
DECODER = ("decoder.", "post_quant_conv.")


class Flux2Latents(nn.Module):
    """Normalised posterior means of diffusers' AutoencoderKLFlux2: images [m 3 h w] -> [m n 128], by row."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor) -> Tensor:
        """Return one token for each 2 x 2 block of latent pixels, channel-major (c, y, x)."""
        return self.grid(images).flatten(2).mT

    def grid(self, images: Tensor) -> Tensor:
        """Return the latents as a map [m 128 h/16 w/16]."""
        mean = self.vae.encode(images).latent_dist.mode()
        return self.vae.bn(F.pixel_unshuffle(mean, 2))


class ScrambledFlux2Latents(Flux2Latents):
    """What the reference benchmark extracts: two memory blocks read with their axes in the wrong order."""

    def forward(self, images: Tensor) -> Tensor:
        """Return tokens [m n 128] that mix channels and positions, of images whose pixels are mixed alike."""
        height_width_channel = images.permute(0, 2, 3, 1)
        grid = self.grid(height_width_channel.reshape(images.shape))
        return grid.reshape(grid.shape[0], -1, grid.shape[1])


@register_encoder(FLUX2, tiny=True)
def build_flux2(spec: EncoderSpec, options: EncoderOptions) -> FrameEncoder:
    """Build the encoder half from random weights, or from those that diffusers or upstream publish."""
    vae, weights = module_with_weights(
        flux2_encoder_half,
        spec,
        options,
        rename=lambda tensors, _: to_flux2_names(tensors),
        tiny=partial(flux2_encoder_half, **TINY),
    )
    tokens = ScrambledFlux2Latents if options.preprocess == "lary" else Flux2Latents
    return FrameEncoder(spec, options, tokens(vae), weights)


def to_flux2_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder half's tensors by diffusers' names, from its own or the upstream checkpoint."""
    renamed = rename({k: v for k, v in tensors.items() if not k.startswith(DECODER)}, UPSTREAM_NAMES)
    # Upstream's attention is made of 1 x 1 convolutions, diffusers' of linear layers.
    return {k: v.flatten(1) if ".attentions.0.to_" in k and v.ndim > 1 else v for k, v in renamed.items()}


def flux2_encoder_half(**sizes: Any) -> Any:
    """Return the encoder half at the published sizes, or others, with random weights."""
    narrowest = {"decoder_block_out_channels": NARROWEST}
    return encoder_half("AutoencoderKLFlux2", "for FLUX.2's autoencoder", narrowest, sizes)
