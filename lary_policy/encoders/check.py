"""Encoders on a GPU give the latents of the CPU for a first batch before a run trusts them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lary_policy.encoders.base import LatentEncoder
from lary_policy.machine import require_like_cpu

_FRAMES = {"frame": 1, "pair": 2, "clip": 16}  # a clip of what video encoders were published with


def require_encoder_like_cpu(
    encoder: LatentEncoder, on_cpu: Callable[[], LatentEncoder], *, image_px: int, dtype: torch.dtype
) -> None:
    """Compare the latents of one batch of drawn frames with those of the same encoder on the CPU in float32.

    Outputs with noise are left alone: each device draws its own.

    Args:
        encoder: On its device.
        on_cpu: Loads it on the CPU.
        image_px: Side of a frame.
        dtype: What the encoder computes in.

    Raises:
        DeviceError: They differ by more than the dtype explains.
    """
    expected = on_cpu()
    frames = _frames(_FRAMES[encoder.latent.kind], image_px)
    require_like_cpu(encoder.spec.name, encoder.encode(frames), expected.encode(frames), dtype)


def _frames(count: int, px: int) -> Tensor:
    """Return two drawn clips of soft patches of colour, uint8 `[2 t h w 3]`: noise alone has no edges."""
    drawn = torch.rand(2 * count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    large = interpolate(drawn, size=(px, px), mode="bilinear")
    return (large * 255).byte().view(2, count, 3, px, px).permute(0, 1, 3, 4, 2).contiguous()
