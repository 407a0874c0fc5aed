"""Tokens of the pixel encoder are the pixels."""

import torch
from einops import rearrange

from lary_policy.encoders.base import load_encoder


def test_tokens_are_patches_row_by_row(noise_frames):
    frames = noise_frames[:, :, :28, :28]
    latents = load_encoder("pixels", image_px=28).encode(frames)
    patches = rearrange(frames, "b t (gy y) (gx x) c -> b t (gy gx) (c y x)", y=14, x=14)
    torch.testing.assert_close(latents, patches / 255, rtol=0, atol=1e-6)
