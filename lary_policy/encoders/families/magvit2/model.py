"""The convolutional autoencoder of Open-MAGVIT2 (f16, 18 bits a token), up to its quantiser.

    config = Magvit2Config()
    encoder = Magvit2Encoder(config)                  # images [b 3 h w] -> feature map [b 18 h/16 w/16]
    tensors = magvit2_tensors(state, "encoder", ema)  # the encoder's part of an upstream checkpoint

The feature map is what the sign quantiser sees; `map.flatten(2).mT` gives tokens [b n 18] row by row. The
published weights were trained on images in [-1, 1]; LARYBench feeds [0, 1] and reads the raw instead of the
averaged weights (`ema=False`). Module names are those of the published checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32
NORM_EPS = 1e-6


@dataclass(frozen=True)
class Magvit2Config:
    """Sizes of the autoencoder; the defaults are those of the published 2^18-code checkpoints."""

    base_channels: int = 128  # channels at full resolution, a multiple of 32
    # Channels of each level as multiples of `base_channels`; each level but the last halves the resolution
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 4  # residual blocks a level
    bits: int = 18  # channels of the feature map, one a bit of the code

    @property
    def patch_px(self) -> int:
        """Return the pixels between neighbouring cells of the feature map."""
        return 2 ** (len(self.multipliers) - 1)


class Magvit2Encoder(nn.Module):
    """Images to the features in front of the quantiser: [b 3 h w] -> [b bits h/16 w/16].

    Height and width must be multiples of `config.patch_px`.
    """

    def __init__(self, config: Magvit2Config | None = None) -> None:
        super().__init__()
        config = config or Magvit2Config()
        widths = [config.base_channels * m for m in (1, *config.multipliers)]
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.down = nn.Sequential()
        for level, (a, b) in enumerate(pairwise(widths), start=1):
            halve = {"downsample": nn.Conv2d(b, b, 3, stride=2, padding=1)}
            blocks = _blocks(a, b, config.blocks)
            self.down.append(_level(blocks, halve if level < len(config.multipliers) else {}))
        self.mid_block = _blocks(widths[-1], widths[-1], config.blocks)
        self.norm_out = nn.GroupNorm(GROUPS, widths[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.bits, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the feature map of images [b 3 h w], in [-1, 1] for the published weights."""
        x = self.mid_block(self.down(self.conv_in(images)))
        return self.conv_out(F.silu(self.norm_out(x)))


class Magvit2Decoder(nn.Module):
    """Codes to images: [b bits h w] -> [b 3 16h 16w]; the benchmark never runs it, but counts it."""

    def __init__(self, config: Magvit2Config | None = None) -> None:
        super().__init__()
        config = config or Magvit2Config()
        widths = [config.base_channels * m for m in config.multipliers]
        inputs = [*widths[1:], widths[-1]]
        self.conv_in = nn.Conv2d(config.bits, widths[-1], 3, padding=1)
        self.mid_block = _blocks(widths[-1], widths[-1], config.blocks)
        self.up = nn.ModuleList()
        for level, (a, b) in enumerate(zip(inputs, widths, strict=True)):
            double = {"upsample": _Upsample(b)}
            self.up.append(_level(_blocks(a, b, config.blocks), double if level else {}))
        self.adaptive = nn.ModuleList(_AdaptiveNorm(config.bits, width) for width in inputs)
        self.norm_out = nn.GroupNorm(GROUPS, widths[0], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        """Return images of codes [b bits h w], each -1 or 1."""
        x = self.mid_block(self.conv_in(codes))
        for norm, level in zip(reversed(self.adaptive), reversed(self.up), strict=True):
            x = level(norm(x, codes))
        return self.conv_out(F.silu(self.norm_out(x)))


class Magvit2Autoencoder(nn.Module):
    """Encoder and decoder, 115.128 M parameters at the published sizes."""

    def __init__(self, config: Magvit2Config | None = None) -> None:
        super().__init__()
        self.encoder = Magvit2Encoder(config)
        self.decoder = Magvit2Decoder(config)

    def forward(self, images: Tensor) -> Tensor:
        """Return the reconstruction [b 3 h w] of images [b 3 h w] through their binary codes."""
        return self.decoder(self.encoder(images).sign())


def magvit2_tensors(state: Mapping[str, Tensor], part: str, *, ema: bool) -> dict[str, Tensor]:
    """Select one half of the autoencoder from an upstream checkpoint, without the losses and the quantiser.

    Args:
        state: Tensors by upstream name, e.g. `encoder.conv_in.weight`. The averaged weights stand beside the
            raw ones as `model_ema.` and the name without its dots.
        part: `encoder` or `decoder`.
        ema: Take the averaged weights where the checkpoint has them.

    Returns:
        Tensors by the names of `Magvit2Encoder` or `Magvit2Decoder`.
    """
    prefix = f"{part}."
    raw = {key: value for key, value in state.items() if key.startswith(prefix)}
    averaged = {key: state.get(f"model_ema.{key.replace('.', '')}", value) for key, value in raw.items()}
    return {key.removeprefix(prefix): value for key, value in (averaged if ema else raw).items()}


class _Block(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width_in, NORM_EPS)
        self.norm2 = nn.GroupNorm(GROUPS, width_out, NORM_EPS)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        if width_in != width_out:
            self.nin_shortcut = nn.Conv2d(width_in, width_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        x = self.conv1(F.silu(self.norm1(x)))
        return residual + self.conv2(F.silu(self.norm2(x)))


class _Upsample(nn.Module):
    """A convolution whose channels become 2 x 2 pixels, block offset major (dy, dx, channel)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 4 * width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        # pixel_shuffle wants (channel, dy, dx).
        return F.pixel_shuffle(x.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2), 2)


class _AdaptiveNorm(nn.Module):
    """Group norm whose scale and shift follow from the codes' spread and mean over the image."""

    def __init__(self, bits: int, width: int) -> None:
        super().__init__()
        self.gn = nn.GroupNorm(GROUPS, width, NORM_EPS, affine=False)
        self.gamma = nn.Linear(bits, width)
        self.beta = nn.Linear(bits, width)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        spread = (codes.flatten(2).var(dim=-1) + NORM_EPS).sqrt()
        scale, shift = self.gamma(spread), self.beta(codes.flatten(2).mean(dim=-1))
        return scale[..., None, None] * self.gn(x) + shift[..., None, None]


def _blocks(width_in: int, width_out: int, number: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(width_in if i == 0 else width_out, width_out) for i in range(number)))


def _level(blocks: nn.Sequential, step: Mapping[str, nn.Module]) -> nn.Sequential:
    """Return the blocks at one resolution and the step to the next one, by their upstream names."""
    return nn.Sequential(OrderedDict(block=blocks, **step))
