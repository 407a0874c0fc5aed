"""Wan 2.2's causal video autoencoder: four frames a latent step after the first; through diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions, register_encoder
from lary_policy.encoders.kinds import ClipEncoder
from lary_policy.encoders.modules import encoder_half, module_with_weights
from lary_policy.encoders.preprocess import HALF, Preprocess
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import HubRepo, WeightsSource, rename
from lary_policy.types import LatentSpec

CHUNK = 4  # frames of every latent step but the first, which has one

# Lanczos and [-1, 1] in both; what differs is which frames the model gets.
PIPELINE = Preprocess(HALF, HALF, interpolation="lanczos")

WAN = EncoderSpec(
    name="wan2.2-vae",
    family="pixel",
    weights=WeightsSource(
        # The commit that independent public projects name as their snapshot of this repository.
        hub=HubRepo(
            "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
            revision="b8fff7315c768468a5333511427288870b2e9635",
            filename="vae/diffusion_pytorch_model.safetensors",
        )
    ),
    image_px=224,
    patch_px=16,
    size_multiple=16,
    latent=LatentSpec("clip", tokens=196, width=48, grid=(1, 14, 14)),
    preprocess={"native": PIPELINE, "lary": PIPELINE},
    licence="Apache-2.0",
    paper="arXiv:2503.20314",
    # The encoder alone; with the decoder, which is never run, there are 704.69 M.
    params_m=149.64,
    # Half of what two frames cost, which become two latent steps.
    gflops_per_frame=466.94,
    reference_key="wan2-2",
)

SIZES: Mapping[str, Any] = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
}
# Sizes of the toy model for `weights=tiny-random`.
TINY = {"base_dim": 16, "num_res_blocks": 1}

# Mean and standard deviation of each latent channel, published with the weights.
# fmt: off
LATENT_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)
LATENT_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)
# fmt: on

# Names of the published `Wan2.2_VAE.pth` -> diffusers.
UPSTREAM_NAMES = (
    (r"^conv1\.", "quant_conv."),
    (r"^encoder\.conv1\.", "encoder.conv_in."),
    (r"^encoder\.head\.0\.", "encoder.norm_out."),
    (r"^encoder\.head\.2\.", "encoder.conv_out."),
    (r"^encoder\.middle\.0\.", "encoder.mid_block.resnets.0."),
    (r"^encoder\.middle\.1\.", "encoder.mid_block.attentions.0."),
    (r"^encoder\.middle\.2\.", "encoder.mid_block.resnets.1."),
    (
        r"^encoder\.downsamples\.(\d+)\.downsamples\.\d+\.(resample|time_conv)\.",
        r"encoder.down_blocks.\1.downsampler.\2.",
    ),
    (r"^encoder\.downsamples\.(\d+)\.downsamples\.(\d+)\.", r"encoder.down_blocks.\1.resnets.\2."),
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
)
DECODER = ("decoder.", "conv2.", "post_quant_conv.")


class WanLatents(nn.Module):
    """Standardised posterior means of AutoencoderKLWan: [b t 3 h w] -> [b t' n 48], t' = 1 + (t - 1) // 4."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (LATENT_MEAN, LATENT_STD))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        """Return the tokens of each latent step row by row; frames after the last whole chunk are unseen."""
        mean = self.vae.encode(clips.transpose(1, 2)).latent_dist.mode()
        return ((mean - self.mean) / self.std).flatten(3).permute(0, 2, 3, 1)


@register_encoder(WAN, tiny=True)
def build_wan(spec: EncoderSpec, options: EncoderOptions) -> ClipEncoder:
    """Build the encoder half from random weights, or from those that diffusers or upstream publish."""
    vae, weights = module_with_weights(
        wan_encoder_half,
        spec,
        options,
        rename=lambda tensors, _: to_wan_names(tensors),
        tiny=partial(wan_encoder_half, **TINY),
    )
    frame_rule = {"native": fill_chunks, "lary": whole_chunks}[options.preprocess]
    return ClipEncoder(spec, options, WanLatents(vae), weights, frame_rule)


def fill_chunks(frames: Tensor) -> Tensor:
    """Repeat the last frame of [b t h w 3] until t is 1 + 4k, so that every frame enters a latent step."""
    missing = -(frames.shape[1] - 1) % CHUNK
    return torch.cat([frames, frames[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1) if missing else frames


def whole_chunks(frames: Tensor) -> Tensor:
    """Return the frames [b t h w 3] that the model sees when nothing is repeated: the first 1 + 4k."""
    return frames[:, : frames.shape[1] - (frames.shape[1] - 1) % CHUNK]


def to_wan_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder half's tensors by diffusers' names, from its own or the upstream checkpoint."""
    return rename({k: v for k, v in tensors.items() if not k.startswith(DECODER)}, UPSTREAM_NAMES)


def wan_encoder_half(**sizes: Any) -> Any:
    """Return the encoder half at the published sizes, or others, with random weights."""
    return encoder_half("AutoencoderKLWan", "for Wan's autoencoder", {**SIZES, "decoder_base_dim": 8}, sizes)
