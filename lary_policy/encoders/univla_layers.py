"""Layers of UniVLA's latent action model, under the names that its checkpoints use."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lary_policy.encoders.codebook import nearest_codes

WAVELENGTH = 10_000.0  # base of the sinusoidal positions, as in the original transformer


def sinusoidal_positions(tokens: int, width: int, device: torch.device) -> Tensor:
    """Return float32 positions [n d] with sine and cosine interleaved."""
    position = torch.arange(tokens, device=device, dtype=torch.float32)[:, None]
    exponent = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    angles = position * torch.exp(exponent * (-math.log(WAVELENGTH) / width))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class SelfAttention(nn.Module):
    """Multi-head self-attention [b n d] -> [b n d]; only the output projection has a bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, tokens: Tensor, *, causal: bool = False) -> Tensor:
        """Attend over dimension n; with `causal`, only to itself and what comes before."""
        q, k, v = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class SpaceTimeBlock(nn.Module):
    """Attention within each frame, causal attention over time at each token, feed-forward; all pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.spatial_attn = SelfAttention(width, heads)
        self.temporal_attn = SelfAttention(width, heads)
        self.ffn = _feed_forward(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [b t n d] to tokens of the same shape."""
        batch, frames, count, _ = tokens.shape
        flat = tokens.flatten(0, 1)
        tokens = tokens + self.spatial_attn(self.norm1(flat)).unflatten(0, (batch, frames))
        over_time = self.norm2(tokens).transpose(1, 2).flatten(0, 1)  # [b*n t d]
        mixed = self.temporal_attn(over_time, causal=True).unflatten(0, (batch, count))
        tokens = tokens + mixed.transpose(1, 2)
        return tokens + self.ffn(self.norm3(tokens))


class SpaceBlock(nn.Module):
    """Attention within each frame and feed-forward, both pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.spatial_attn = SelfAttention(width, heads)
        self.ffn = _feed_forward(width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [b n d] to tokens of the same shape."""
        tokens = tokens + self.spatial_attn(self.norm1(tokens))
        return tokens + self.ffn(self.norm2(tokens))


class Encoder(nn.Module):
    """Stem, positions over the token index (none over time) and space-time blocks."""

    def __init__(self, width_in: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.ffn = _stem(width_in, width)
        self.transformer_blocks = nn.ModuleList(SpaceTimeBlock(width, heads) for _ in range(depth))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [b t n d_in] to [b t n d]."""
        return _run(self.ffn, self.transformer_blocks, tokens)


class Decoder(nn.Module):
    """Stem, positions over the token index, blocks within a frame and a linear layer."""

    def __init__(self, width: int, width_out: int, depth: int, heads: int) -> None:
        super().__init__()
        self.ffn = _stem(width, width)
        self.transformer_blocks = nn.ModuleList(SpaceBlock(width, heads) for _ in range(depth))
        self.out = nn.Linear(width, width_out)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [b n d] to [b n d_out]."""
        return self.out(_run(self.ffn, self.transformer_blocks, tokens))


class Codebook(nn.Module):
    """Nearest-neighbour quantisation of [... d] vectors."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.codebook = nn.Embedding(codes, width)
        nn.init.uniform_(self.codebook.weight, -1 / codes, 1 / codes)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest code vectors [... d] and their indices [...]."""
        return nearest_codes(vectors, self.codebook.weight)


def _run(stem: nn.Module, blocks: nn.ModuleList, tokens: Tensor) -> Tensor:
    tokens = stem(tokens)
    positions = sinusoidal_positions(tokens.shape[-2], tokens.shape[-1], tokens.device)
    tokens = tokens + positions.to(tokens.dtype)
    for block in blocks:
        tokens = block(tokens)
    return tokens


def _stem(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width_in), nn.Linear(width_in, width), nn.LayerNorm(width))


def _feed_forward(width: int) -> nn.Sequential:
    # The identity stands where training has a dropout, so that the second layer keeps its number.
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Identity(), nn.Linear(4 * width, width))
