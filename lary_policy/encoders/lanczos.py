"""Pillow's LANCZOS resize on whatever device the images are."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

LOBES = 3  # support of the kernel in output pixels, Pillow's LANCZOS3


def lanczos_resize(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resize like `PIL.Image.resize(..., Image.Resampling.LANCZOS)`: across, then down, rounding after each.

    Args:
        images: float32 grey levels 0..255 [b c h w].
        shape: (height, width) of the output.

    Returns:
        Whole grey levels [b c *shape] as float32.
    """
    for axis, size in ((-1, shape[1]), (-2, shape[0])):
        if images.shape[axis] != size:
            kernel = _kernel(images.shape[axis], size, images.device)
            images = (images.transpose(axis, -1) @ kernel).transpose(axis, -1)
            images = images.round_().clamp_(0, 255)
    return images


@functools.lru_cache(maxsize=64)
def _kernel(size_in: int, size_out: int, device: torch.device) -> Tensor:
    """Return the weights [size_in size_out] of every input pixel in every output pixel; kept on `device`."""
    exact: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    scale = size_in / size_out
    stretch = max(scale, 1.0)  # shrinking widens the kernel
    centres = (torch.arange(size_out, **exact) + 0.5) * scale
    first = (centres - LOBES * stretch + 0.5).floor().clamp(min=0)
    last = (centres + LOBES * stretch + 0.5).floor().clamp(max=size_in)
    pixels = torch.arange(size_in, **exact)[:, None]
    distance = (pixels + 0.5 - centres) / stretch
    weights = torch.special.sinc(distance) * torch.special.sinc(distance / LOBES)
    weights = weights.where((distance.abs() < LOBES) & (pixels >= first) & (pixels < last), 0.0)
    return (weights / weights.sum(0)).to(device, torch.float32)
