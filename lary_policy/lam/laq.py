"""LAPA's quantiser in training: predict the later frame from the earlier one and a few codes between them.

The loss, the noise that stands for quantisation and the care for unused codes are the reference's
(`latent_action_quantization*.py`, `nsvq.py`), its counting included.
"""

from __future__ import annotations

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from lary_policy.encoders.families.lapa import LaqConfig, LatentActionQuantiser, code_tokens
from lary_policy.errors import ConfigError
from lary_policy.lam.config import LamConfig
from lary_policy.lam.registry import FramePair, LamScore, register_lam

# Codes that were used in fewer of the steps since the last look than this part of the *batch size* are
# replaced. The reference's method expects the number of those steps and is given the batch size.
_LEAST_USE = 0.1
_EPS = 1e-12  # of the noise on copies of codes, the reference's


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
        self.draws: tuple[int, ...] = (code_tokens(sizes.code_seq_len, grid), sizes.code_width)
        self.register_buffer("steps_used", torch.zeros(self.codes))
        self.steps_used: Tensor

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

        These are every 10th of the first 100, every 100th of 1,000 and every 500th of 5,000.
        """
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


@register_lam("laq")
def build_laq(
    config: LamConfig, features: tuple[int, int] | None, image_px: int, pixels: bool
) -> LaqTraining:
    """Return an untrained quantiser; for the arguments see `LamBuilder`.

    Raises:
        ConfigError: The patch grid does not fit the images or the network that thins it out.
    """
    grid = image_px // config.patch_px if features is None else isqrt(features[0])
    patch = config.patch_px if features is None else image_px // grid
    code_tokens(config.code_seq_len, grid)  # said before the network is built
    sizes = LaqConfig(
        dim=config.width if features is None else features[1],
        codes=config.codebook,
        code_width=config.dim,
        code_seq_len=config.code_seq_len,
        spatial_depth=config.spatial_depth,
        temporal_depth=config.temporal_depth,
        heads=config.attention_heads,
        head_width=config.head_width,
        input_patch_px=patch if features is None else None,
        output_patch_px=patch if pixels else None,
    )
    if (features is None or pixels) and image_px % patch:
        raise ConfigError(
            expected=f"images whose side is a multiple of the patches' {patch} px",
            got=f"{image_px} px",
            fix=f"Pass image_px={max(1, image_px // patch) * patch}, or another patch_px.",
        )
    return LaqTraining(LatentActionQuantiser(sizes), grid, pixels)
