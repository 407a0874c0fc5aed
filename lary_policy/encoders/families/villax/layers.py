"""Layers of villa-X's latent action model, under the names that its checkpoints use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WAVELENGTH = 10_000.0  # base of the sinusoidal positions, as in the original transformer


def sinusoid(width: int, positions: Tensor) -> Tensor:
    """Return positions [n] as [n width]: all sines, then all cosines."""
    frequency = WAVELENGTH ** -(torch.arange(width // 2, dtype=torch.float32) / (width / 2))
    angles = positions.to(torch.float32)[:, None] * frequency
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def grid_positions(width: int, side: int) -> Tensor:
    """Return [side*side width] for patches row by row: first half the column, second half the row."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.cat((sinusoid(width // 2, column.flatten()), sinusoid(width // 2, row.flatten())), dim=1)


class PatchEmbed(nn.Module):
    """Images [m 3 h w] to patches [m n d]; a rest narrower than a patch is cut off."""

    def __init__(self, patch_px: int, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_px, patch_px)

    def forward(self, images: Tensor) -> Tensor:
        """Return the patches row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


class RmsNorm(nn.Module):
    """Vectors divided by their root mean square, times a learned gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        rms = x.norm(dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        return x / rms.clamp(min=1e-8) * self.g


class SwishGlu(nn.Module):
    """Linear layer of twice the width whose second half gates the first."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.project = nn.Linear(width_in, 2 * width_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map [... width_in] to [... width_out]."""
        value, gate = self.project(x).chunk(2, dim=-1)
        return value * F.silu(gate)


class Scale(nn.Module):
    """One learned factor a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the last dimension."""
        return x * self.gamma


class SelfAttention(nn.Module):
    """Multi-head self-attention [b n d] -> [b n d] with biases, queries and keys optionally layer-normed."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, *, causal: bool = False) -> Tensor:
        """Attend over dimension n; with `causal`, only to itself and what comes before."""
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, is_causal=causal)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention of queries [b m d] to a context [b n d]."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.kv = nn.Linear(width, 2 * width)
        self.q = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        # Absent without `qk_norm`: checkpoints then have no such keys.
        self.q_layernorm = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.k_layernorm = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """Return [b m d]."""
        q = self.q(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(self.q_layernorm(q), self.k_layernorm(k), v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with a tanh-approximated GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [... d] to [... d]."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SpaceTimeBlock(nn.Module):
    """Attention within each frame, causal attention over time at each patch, feed-forward.

    A learned table shifts, scales and gates as in a DiT block. The attention over time reads the residual
    stream without a norm and shares the gate of the attention within frames.
    """

    def __init__(self, width: int, heads: int, hidden: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads, qk_norm=qk_norm)
        self.attn_temp = SelfAttention(width, heads, qk_norm=qk_norm)
        self.mlp = Mlp(width, hidden)
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)

    def within_frames(self, tokens: Tensor) -> Tensor:
        """Return tokens [... n d] after attention within each frame, which knows nothing of time."""
        shift, scale, gate = self.scale_shift_table[:3]
        modulated = _layer_norm(tokens) * (1 + scale) + shift
        return tokens + gate * self.attn(modulated.flatten(0, -3)).view_as(tokens)

    def over_time(self, tokens: Tensor, time: Tensor | None = None) -> Tensor:
        """Return tokens [b t n d] after causal attention over time and the feed-forward.

        Args:
            tokens: Result of `within_frames`.
            time: Positions [t d] added to what the attention reads, or None.
        """
        gate, shift_mlp, scale_mlp, gate_mlp = self.scale_shift_table[2:]
        columns = tokens.transpose(1, 2)  # [b n t d]
        columns = columns if time is None else columns + time
        mixed = self.attn_temp(columns.flatten(0, 1), causal=True).view_as(columns)
        tokens = tokens + gate * mixed.transpose(1, 2)
        return tokens + gate_mlp * self.mlp(_layer_norm(tokens) * (1 + scale_mlp) + shift_mlp)


class MapBlock(nn.Module):
    """Learned queries that pool patches [b n d] into tokens [b m d_out]; norms come after the residuals."""

    def __init__(self, queries: int, width: int, heads: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.pre_projection = nn.Linear(width, width)
        self.latents = nn.Parameter(torch.randn(queries, width) * 0.02)
        self.attn_norm, self.mlp_norm = RmsNorm(width), RmsNorm(width)
        self.attn = CrossAttention(width, heads, qk_norm=False)
        self.mlp = nn.Sequential(SwishGlu(width, hidden), nn.Linear(hidden, width))
        self.final_proj = nn.Sequential(nn.Linear(width, width_out))

    def forward(self, patches: Tensor) -> Tensor:
        """Return one token a query."""
        queries = self.latents.expand(len(patches), -1, -1)
        queries = self.attn_norm(queries + self.attn(queries, self.pre_projection(patches)))
        return self.final_proj(self.mlp_norm(queries + self.mlp(queries)))


class DecoderBlock(nn.Module):
    """Pre-norm self-attention and feed-forward with scaled residuals."""

    def __init__(self, width: int, heads: int, hidden: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.pre_norm_attn, self.pre_norm_mlp = RmsNorm(width), RmsNorm(width)
        self.attn = CrossAttention(width, heads, qk_norm=qk_norm)
        self.layer_scale_attn, self.layer_scale_mlp = Scale(width), Scale(width)
        # The identity stands where training has a dropout, so that the last layer keeps its number.
        self.mlp = nn.Sequential(SwishGlu(width, hidden), nn.Identity(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [b n d] to tokens of the same shape."""
        normed = self.pre_norm_attn(tokens)
        tokens = tokens + self.layer_scale_attn(self.attn(normed, normed))
        return tokens + self.layer_scale_mlp(self.mlp(self.pre_norm_mlp(tokens)))


def _layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)
