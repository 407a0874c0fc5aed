"""LAPA's quantiser in training: predict the later frame from the earlier one and a few codes between them.

The loss, the noise that stands for quantisation and the care for unused codes are the reference's
(`latent_action_quantization*.py`, `nsvq.py`), its counting included.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lary_policy.encoders.families import OWN_WIDTH
from lary_policy.encoders.families.lapa import LAQ_FILE, LaqConfig, LatentActionQuantiser, code_tokens
from lary_policy.errors import ConfigError
from lary_policy.lam.codebook import CodeUpkeep
from lary_policy.lam.config import LamConfig
from lary_policy.lam.first_weights import silence, take_codes
from lary_policy.lam.registry import FramePair, LamScore, register_lam, save_state

# Codes that were used in fewer of the steps since the last look than this part of the *batch size* are
# replaced. The reference's method expects the number of those steps and is given the batch size.
_LEAST_USE = 0.1
_EPS = 1e-12  # of the noise on copies of codes, the reference's
# What the branches of a layer end in: position convolution, attentions, feed-forward.
_LAST_OF_BRANCHES = ("0.dsconv.", "1.to_out.", "2.to_out.", "3.4.")


class LaqTraining(torch.nn.Module):
    """A latent action quantiser with its loss.

    Args:
        network: The quantiser.
        grid: Side of the patch grid.
        pixels: Whether the decoder predicts images instead of features.
    """

    def __init__(self, network: LatentActionQuantiser, grid: int, pixels: bool) -> None:
        super().__init__()
        self.network, self._pixels = network, pixels
        sizes = network.config
        self.codes = sizes.codes
        self.tokens = code_tokens(sizes.code_seq_len, grid)
        self.draws: tuple[int, ...] = (self.tokens, sizes.code_width)
        self.register_buffer("steps_used", torch.zeros(self.codes))
        self.steps_used: Tensor
        self.upkeep: CodeUpkeep | None = None  # in place of the reference's care for codes

    def forward(self, pairs: FramePair, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return `loss`: what processes average gradients of is a forward pass."""
        return self.loss(pairs, draws)

    def loss(self, pairs: FramePair, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean squared error of the predicted later frame, and the codes [p s]."""
        first, difference = self._between(pairs)
        vq = self.network.vq
        with torch.autocast(difference.device.type, enabled=False):
            noisy = vq.substitute_noise(difference.float(), draws.view_as(difference).float())
            codes = vq.nearest(difference.detach().float())
        predicted = self.network.reconstruct(first.detach(), vq.decode(noisy))
        return F.mse_loss(predicted.float(), self._target(pairs, second=True)), codes

    def score(self, pairs: FramePair) -> LamScore:
        """Return how well pairs are predicted from the codes themselves, as encoders use them."""
        first, difference = self._between(pairs)
        vq = self.network.vq
        codes = vq.nearest(difference.float())
        predicted = self.network.reconstruct(first, vq.decode(vq.codebooks[codes])).float()
        truth = self._target(pairs, second=True)
        error, copied = (self._by_token(x - truth) for x in (predicted, self._target(pairs, second=False)))
        return LamScore(error, copied, codes, predicted)

    def tend(self, step: int, used: Tensor, batch_size: int, seed: int) -> int:
        """Replace codes that are hardly used by copies of used ones, at the reference's steps.

        These are every 10th of the first 100, every 100th of 1,000 and every 500th of 5,000. With `upkeep` it
        is done as there.
        """
        if self.upkeep is not None:
            return self.upkeep.tend(self.network.vq.codebooks.data, step, used, seed)
        self.steps_used += used.to(self.steps_used)
        if not step or not any(step % every == 0 and step < end for every, end in _LOOKS):
            return 0
        codes = self.network.vq.codebooks.data
        kept = self.steps_used / batch_size >= _LEAST_USE
        self.steps_used.zero_()
        generator = torch.Generator().manual_seed(seed)
        if not kept.any():
            codes += _EPS * torch.randn(codes.shape, generator=generator).to(codes)
            return 0
        lost = int((~kept).sum())
        models = codes[kept].clone()
        if len(models) < lost:
            models = models.repeat(-(-lost // len(models)), 1)
            models = models[torch.randperm(len(models), generator=generator)]
        noise = torch.randn(lost, codes.shape[1], generator=generator).to(codes)
        codes[~kept] = models[:lost] + _EPS * noise
        return lost

    def _between(self, pairs: FramePair) -> tuple[Tensor, Tensor]:
        """Return the tokens [p n d] of the earlier frames, and what changed [p s q]."""
        first, second = pairs.first, pairs.second
        if self.network.config.input_patch_px:
            first, second = (self.network.to_patch_emb_first_frame(x) for x in (first, second))
        return first, self.network(first, second)

    def _target(self, pairs: FramePair, *, second: bool) -> Tensor:
        features, images = (pairs.second, pairs.second_image) if second else (pairs.first, pairs.first_image)
        chosen = images if self._pixels else features
        if chosen is None:
            raise ConfigError(expected="images of the frames", got="none", fix="Pass target=features.")
        return chosen

    def _by_token(self, difference: Tensor) -> Tensor:
        squared = difference.square()
        if not self._pixels:
            return squared.mean(dim=-1)
        side = self.network.config.output_patch_px or 1
        return F.avg_pool2d(squared.mean(dim=1, keepdim=True), side).flatten(1)


_LOOKS = ((10, 100), (100, 1000), (500, 5000))


# The network that thins the grid out where none is asked for. On grids of 6 to 8, small frames, it leaves 9
# to 16 codes of a pair; the reference's 16 would leave 4.
CODE_SEQ_LEN = 49


def write_laq(folder: Path, state: Mapping[str, Tensor], about: Any) -> None:
    """Write the state dict as the reference's trainers do; its loaders of DINOv3 models want it deeper."""
    save_state(folder / LAQ_FILE, {"model": state} if about.backbone.startswith("dinov3") else dict(state))


@register_lam("laq", write_laq, (LAQ_FILE,), "lapa-{}")
def build_laq(config: LamConfig, sample: FramePair, pixels: bool) -> LaqTraining:
    """Return an untrained quantiser; for the arguments see `LamBuilder`.

    Raises:
        ConfigError: The patch grid does not fit the images or the network that thins it out.
    """
    features, images = sample.first.dim() == 3, sample.first_image
    image_px = images.shape[-1] if images is not None else 0
    grid = isqrt(sample.first.shape[1]) if features else image_px // config.patch_px
    patch = image_px // grid if features else config.patch_px
    length = config.code_seq_len or CODE_SEQ_LEN
    code_tokens(length, grid)  # said before the network is built
    if features and config.width not in (None, sample.first.shape[2]):
        raise ConfigError(
            expected=f"the backbone's width, {sample.first.shape[2]}",
            got=f"width={config.width}",
            fix="Leave width out; it is for backbone=pixels.",
        )
    sizes = LaqConfig(
        dim=sample.first.shape[2] if features else config.width or OWN_WIDTH,
        codes=config.codebook,
        code_width=config.dim,
        code_seq_len=length,
        spatial_depth=config.spatial_depth,
        temporal_depth=config.temporal_depth,
        heads=config.attention_heads,
        head_width=config.head_width,
        input_patch_px=None if features else patch,
        output_patch_px=patch if pixels else None,
    )
    if (not features or pixels) and image_px % patch:
        raise ConfigError(
            expected=f"images whose side is a multiple of the patches' {patch} px",
            got=f"{image_px} px",
            fix=f"Pass image_px={max(1, round(image_px / patch)) * patch}, or another patch_px.",
        )
    module = LaqTraining(LatentActionQuantiser(sizes), grid, pixels)
    if config.first_weights == "copying":
        _start_by_copying(module, sample)
        module.upkeep = CodeUpkeep(module.codes)
    return module


@torch.no_grad()
def _start_by_copying(module: LaqTraining, sample: FramePair) -> None:
    """Let the decoder first predict that nothing changes, and codes be changes of a first batch.

    The decoder ends in a norm, whose output has another scale than features have: its learned scale starts at
    what fits them best.
    """
    network = module.network
    silence(network.dec_spatial_transformer.layers, _LAST_OF_BRANCHES)
    first, difference = module._between(sample)
    if not module._pixels:
        normed, later = F.layer_norm(first, first.shape[-1:]), module._target(sample, second=True)
        scale = (normed * later).flatten(0, 1).sum(0) / normed.square().flatten(0, 1).sum(0).clamp(min=1e-6)
        network.dec_spatial_transformer.norm_out.gamma.copy_(scale)
    take_codes(network.vq.codebooks, difference)
