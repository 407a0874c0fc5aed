"""villa-X's model in training: the later image from a few codes, and from the same codes what the robot did.

Beside the decoder of images, a forward model of the robot's own state and actions learns from the same codes,
so that they tell what a camera hardly sees (villa-X, arXiv:2507.23682, section 3.1: its "proprio FDM"). Only
the model of images is published (microsoft/villa-x, `lam/model.py`), so the second one here is an own network
of two hidden layers: earlier state and codes in, later state and the actions in between out. It is not kept.

Architecture, initialisation and the two losses of the codebook are the published code's. Windows are pairs of
frames (`d_t` 2), the published weights are of windows of eight.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from math import lcm
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lary_policy.encoders import Preprocess
from lary_policy.encoders.families.villax import (
    ARCHITECTURE,
    CONFIG_FILE,
    NATIVE,
    VillaXConfig,
    VillaXModel,
)
from lary_policy.errors import ConfigError
from lary_policy.heads import write_tensors
from lary_policy.lam.codebook import CodeUpkeep, straight_through
from lary_policy.lam.config import LamConfig
from lary_policy.lam.first_weights import fit_last, silence, take_codes
from lary_policy.lam.registry import FramePair, LamScore, register_lam
from lary_policy.paths import atomic_write

ACTION_TOKENS = 2  # of the published weights
WIDTH = 384  # of encoder and decoder where none is asked for; the published one is 768
HIDDEN = 256  # width of the forward model of states
# What the branches of a layer end in: attention, feed-forward.
_LAST_OF_BRANCHES = ("attn.proj.", "mlp.2.")
WEIGHTS_FILE = "model.safetensors"
# How the model's own input pipeline resizes, to images in [0, 1].
IMAGES = Preprocess(interpolation=NATIVE.interpolation)


class VillaXTraining(nn.Module):
    """villa-X's model with its loss.

    Args:
        network: The model.
        widths: Numbers of a state, and of the actions between two frames.
    """

    def __init__(self, network: VillaXModel, widths: tuple[int, int]) -> None:
        super().__init__()
        self.network, sizes = network, network.config
        self.codes, self.tokens = sizes.n_codes, sizes.num_learned_tokens
        self.draws: tuple[int, ...] = ()
        self.upkeep = CodeUpkeep(self.codes)
        told = sizes.num_learned_tokens * sizes.action_latent_dim
        self.forward_model = nn.Sequential(
            nn.Linear(widths[0] + told, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(),
            nn.Linear(HIDDEN, sum(widths)),
        )  # fmt: skip
        self.register_buffer("mean", torch.tensor(NATIVE.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(NATIVE.std)[:, None, None])
        self.mean: Tensor
        self.std: Tensor

    def forward(self, pairs: FramePair, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return `loss`: what processes average gradients of is a forward pass."""
        return self.loss(pairs, draws)

    def loss(self, pairs: FramePair, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, and its codes [p s]."""
        first, second = self._normed(pairs)
        codes, indices, fit = straight_through(self.network.vq, self._vectors(first, second))
        error = F.mse_loss(self.network.decoder(first, codes).float(), self._patches(second))
        return error + fit + self._motion(pairs, codes), indices

    def score(self, pairs: FramePair) -> LamScore:
        """Return how well images in [0, 1] are predicted from the codes."""
        first, second = self._normed(pairs)
        codes, indices = self.network.vq(self._vectors(first, second).float())
        patches = self.network.decoder(first, codes).float()
        side = self.network.config.patch_size
        images = F.fold(patches.mT, first.shape[-1], side, stride=side) * self.std + self.mean
        error, copied = (self._by_patch(x - pairs.second) for x in (images, pairs.first))
        return LamScore(error, copied, indices, images)

    def tend(self, step: int, used: Tensor, batch_size: int, seed: int) -> int:
        """Replace unused codes."""
        return self.upkeep.tend(self.network.vq.codes.data, step, used, seed)

    @torch.no_grad()
    def start_by_copying(self, sample: FramePair) -> None:
        """Let the decoder first predict that nothing changes, and codes be changes of a first batch."""
        first, second = self._normed(sample)
        silence(self.network.decoder.layers, _LAST_OF_BRANCHES)
        fit_last(self.network.decoder.pred_head, lambda: self.score(sample), self._patches(second))
        take_codes(self.network.vq.codes, self._vectors(first, second))

    def _normed(self, pairs: FramePair) -> tuple[Tensor, Tensor]:
        return (pairs.first - self.mean) / self.std, (pairs.second - self.mean) / self.std

    def _vectors(self, first: Tensor, second: Tensor) -> Tensor:
        """Return what is between images [p 3 h w], before it becomes codes, [p s q]."""
        both = self.network.features(torch.cat([first, second])).unflatten(0, (2, len(first)))
        return self.network.encoder(both.transpose(0, 1))[:, 0]

    def _patches(self, images: Tensor) -> Tensor:
        side = self.network.config.patch_size
        return F.unfold(images, side, stride=side).mT

    def _motion(self, pairs: FramePair, codes: Tensor) -> Tensor:
        """Return the mean squared error of the later state and the actions, where they are known."""
        if pairs.first_state is None or pairs.second_state is None or pairs.chunk is None:
            raise ConfigError(expected="states of the robot", got="none", fix="Pass model=laq.")
        told = torch.cat([pairs.first_state.nan_to_num(), codes.flatten(1)], dim=1)
        truth = torch.cat([pairs.second_state, pairs.chunk], dim=1)
        known = truth.isfinite() & pairs.first_state.isfinite().all(dim=1, keepdim=True)
        wrong = (self.forward_model(told).float() - truth.nan_to_num()).square()
        return (wrong * known).sum() / known.sum().clamp(min=1)

    def _by_patch(self, difference: Tensor) -> Tensor:
        side = self.network.config.patch_size
        return F.avg_pool2d(difference.square().mean(dim=1, keepdim=True), side).flatten(1)


def write_villax(folder: Path, state: Mapping[str, Tensor], about: Any) -> None:
    """Write weights and configuration as the published folder has them, which its own code reads."""
    write_tensors(folder / WEIGHTS_FILE, {name: value.cpu().contiguous() for name, value in state.items()})
    with atomic_write(folder / CONFIG_FILE) as temporary:
        raw = {"architecture": ARCHITECTURE, "config": asdict(about.sizes)}
        temporary.write_text(json.dumps(raw, indent=1), encoding="utf-8")


@register_lam(
    "villax", write_villax, (WEIGHTS_FILE, CONFIG_FILE), "villa-x", pipeline=IMAGES, states=True
)  # fmt: skip
def build_villax_training(config: LamConfig, sample: FramePair, pixels: bool) -> VillaXTraining:
    """Return an untrained model.

    Raises:
        ConfigError: It is to see features, sizes do not fit each other, or the images are no whole patches.
    """
    if sample.first.dim() != 4:
        raise ConfigError(
            expected="backbone=pixels for model=villax, which embeds patches itself",
            got="features",
            fix="Pass backbone=pixels.",
        )
    if sample.first_state is None or sample.chunk is None:
        raise ConfigError(expected="states of the robot", got="none", fix="Choose tasks, or model=laq.")
    image_px, width, heads = sample.first.shape[-1], config.width or WIDTH, config.attention_heads
    for name, value, unit in (("width", width, lcm(heads, 4)), ("image_px", image_px, config.patch_px)):
        if value % unit:
            raise ConfigError(
                expected=f"{name} as a multiple of {unit}",
                got=str(value),
                fix=f"Pass {name}={max(1, round(value / unit)) * unit}.",
            )
    sizes = VillaXConfig(
        resolution=image_px,
        patch_size=config.patch_px,
        d_t=2,
        encoder_depth=config.spatial_depth,
        encoder_embed_dim=width,
        encoder_n_heads=heads,
        action_latent_dim=config.dim,
        num_learned_tokens=config.code_seq_len or ACTION_TOKENS,
        map_heads=heads,
        decoder_depth=config.spatial_depth,
        decoder_embed_dim=width,
        decoder_n_heads=heads,
        n_codes=config.codebook,
    )
    network = VillaXModel(sizes)
    for part in network.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.data.flatten(1))
    module = VillaXTraining(network, (sample.first_state.shape[1], sample.chunk.shape[1]))
    if config.first_weights == "copying":
        module.start_by_copying(sample)
    return module
