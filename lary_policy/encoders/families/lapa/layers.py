"""Layers of LAPA's spatial and temporal transformers, with the parameter names of published checkpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Queries and keys have unit length; the reference multiplies their product by this constant.
ATTENTION_SCALE = 8.0
# Learned keys and values that cross attention sees besides its context.
CROSS_NULLS = 2
# Names of a layer's parts in checkpoints.
POSITION, SELF_ATTENTION, CROSS_ATTENTION, FEED_FORWARD = "0", "1", "2", "3"

VideoShape = tuple[int, int, int, int]


class ScaleNorm(nn.Module):
    """Layer norm with a learned scale; the offset is a buffer of zeros."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))
        self.register_buffer("beta", torch.zeros(dim))
        self.beta: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta)


class PositionConvolution(nn.Module):
    """Tells tokens where they are: a depth-wise 3 x 3 x 3 convolution, causal in time.

    Tokens are read as a video by memory order. In the temporal transformer, whose tokens lie in the order
    (pair, row, column, time), that mixes positions; the checkpoints were trained this way.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dsconv = nn.Conv3d(dim, dim, 3, padding=(0, 1, 1), groups=dim)

    def forward(self, x: Tensor, video: VideoShape) -> Tensor:
        """Convolve tokens [... d] that lie in memory like a video of shape (p, t, rows, columns)."""
        frames = x.reshape(*video, -1).movedim(-1, 2)  # [p t d rows columns]
        kernel = self.dsconv.weight  # the last of its three slices is for the frame itself
        mixed = self._in_frame(frames, kernel[:, :, -1], self.dsconv.bias)
        for lag in range(1, min(video[1], kernel.shape[2])):
            earlier = self._in_frame(frames[:, :-lag], kernel[:, :, -1 - lag], None)
            mixed = torch.cat([mixed[:, :lag], mixed[:, lag:] + earlier], dim=1)
        return mixed.movedim(2, -1).reshape(x.shape)

    def _in_frame(self, frames: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve each frame alone: no slice of the kernel meets the zeros before the first frame.

        Of two frames half of a convolution in three dimensions is that, and its gradient in bfloat16 takes a
        third of a training step on a CPU.
        """
        flat = F.conv2d(frames.flatten(0, 1), kernel, bias, padding=1, groups=len(kernel))
        return flat.unflatten(0, frames.shape[:2])


class BiasedAttention(nn.Module):
    """Attention between unit-length queries and keys; keys and values see tokens before the norm.

    Args:
        dim: Width of tokens and context.
        heads: Number of heads, of `head_width` each.
        head_width: Width of a head.
        nulls: Learned key and value pairs put in front of the others.
    """

    def __init__(self, dim: int, heads: int, head_width: int, nulls: int = 0) -> None:
        super().__init__()
        self.heads, self.nulls = heads, nulls
        self.norm = ScaleNorm(dim)
        # Checkpoints have it in self attention too, which does not use it.
        self.context_norm = ScaleNorm(dim)
        self.null_kv = nn.Parameter(torch.randn(heads, 2 * nulls, head_width))
        self.q_scale = nn.Parameter(torch.ones(head_width))
        self.k_scale = nn.Parameter(torch.ones(head_width))
        self.to_q = nn.Linear(dim, heads * head_width, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, dim, bias=False)

    def forward(self, x: Tensor, context: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Attend from tokens [b n d] to themselves, or to `context` [b m d] (cross attention).

        `bias` is added to the logits [heads n m]; not with null keys.
        """
        source = x if context is None else self.context_norm(context)
        key, value = (self._heads(part) for part in self.to_kv(source).chunk(2, dim=-1))
        nulls = self.null_kv.unflatten(1, (self.nulls, 2)).expand(len(x), -1, -1, -1, -1)
        key = torch.cat([nulls[..., 0, :], key], dim=2)
        value = torch.cat([nulls[..., 1, :], value], dim=2)
        query = F.normalize(self._heads(self.to_q(self.norm(x))), dim=-1) * self.q_scale
        key = F.normalize(key, dim=-1) * self.k_scale
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=ATTENTION_SCALE)
        return self.to_out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class RelativeBias(nn.Module):
    """Attention bias from the offset between two cells of a square grid, on a logarithmic scale."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(2, dim), nn.LeakyReLU(0.1)),
                nn.Sequential(nn.Linear(dim, dim), nn.LeakyReLU(0.1)),
                nn.Linear(dim, heads),
            ]
        )

    def forward(self, side: int) -> Tensor:
        """Return the bias [heads n n] of a grid with n = side * side cells."""
        weight = next(self.parameters())
        cells = torch.arange(side, device=weight.device)
        steps = torch.arange(1 - side, side, device=weight.device)
        offsets = torch.cartesian_prod(steps, steps).float()
        x = (offsets.sign() * offsets.abs().log1p()).to(weight.dtype)
        for layer in self.net:
            x = layer(x)
        # Only (2 side - 1)^2 offsets differ: 729 instead of 38,416 rows on a 14 x 14 grid.
        table = x.T.unflatten(1, (2 * side - 1, 2 * side - 1))
        shift = cells[:, None] - cells[None, :] + side - 1
        bias = table[:, shift[:, None, :, None], shift[None, :, None, :]]
        return bias.flatten(3, 4).flatten(1, 2)


class GatedUnit(nn.Module):
    """First half of the channels, gated by the GELU of the second."""

    def forward(self, x: Tensor) -> Tensor:
        """Halve the last dimension."""
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)


def feed_forward(dim: int) -> nn.Sequential:
    """Return the feed-forward part of a layer; a gated unit of 4 x width has 2/3 of its channels."""
    inner = int(4 * (2 / 3) * dim)
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, 2 * inner, bias=False),
        GatedUnit(),
        nn.Identity(),  # the reference's dropout, which keeps the next name at 4
        nn.Linear(inner, dim, bias=False),
    )


class Layer(nn.ModuleDict):
    """Position convolution, self attention, cross attention if asked for, and feed-forward, all residual."""

    def __init__(self, dim: int, heads: int, head_width: int, *, cross: bool) -> None:
        super().__init__()
        self[POSITION] = PositionConvolution(dim)
        self[SELF_ATTENTION] = BiasedAttention(dim, heads, head_width)
        if cross:
            self[CROSS_ATTENTION] = BiasedAttention(dim, heads, head_width, CROSS_NULLS)
        self[FEED_FORWARD] = feed_forward(dim)

    def forward(self, x: Tensor, video: VideoShape, bias: Tensor | None, context: Tensor | None) -> Tensor:
        """Transform tokens [b n d]; see `Transformer.forward`."""
        x = x + self[POSITION](x, video)
        x = x + self[SELF_ATTENTION](x, bias=bias)
        if CROSS_ATTENTION in self:
            x = x + self[CROSS_ATTENTION](x, context)
        return x + self[FEED_FORWARD](x)


class Transformer(nn.Module):
    """A stack of layers and a final norm."""

    def __init__(self, dim: int, depth: int, heads: int, head_width: int, *, cross: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, heads, head_width, cross=cross) for _ in range(depth))
        self.norm_out = ScaleNorm(dim)

    def forward(
        self, x: Tensor, video: VideoShape, bias: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """Transform tokens [b n d].

        Args:
            x: Tokens.
            video: Shape (p, t, rows, columns) that the position convolution reads their memory as.
            bias: Of self attention [heads n n].
            context: What cross attention looks at [b m d].
        """
        for layer in self.layers:
            x = layer(x, video, bias, context)
        return self.norm_out(x)
