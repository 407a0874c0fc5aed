"""A pool of a fixed number of learned queries: heads of one size for encoders of any token count."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lary_policy.heads.attentive_probe import attend

_INIT_STD = 0.02  # as in the attentive probe


class AttentivePool(nn.Module):
    """Learned queries that attend to all tokens of all frames and cameras.

    Tokens are normalised and mapped to `width` numbers; learned embeddings say which frame and camera a token
    is from and where it stands in it. What follows sees queries x width numbers whatever the encoder, so that
    heads on different encoders differ only by the first map and the embeddings.

    Args:
        latent_shape: (t, c, n, d) of the latents.
        width: Numbers a token is mapped to, and of each query's answer.
        queries: Number of queries.
        num_heads: Attention heads; must divide `width`.
    """

    def __init__(
        self, latent_shape: tuple[int, int, int, int], width: int, queries: int, num_heads: int
    ) -> None:
        super().__init__()
        frames, cameras, tokens, features = latent_shape
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(features)
        self.projection = nn.Linear(features, width)
        self.frame_embed = nn.Parameter(torch.randn(frames, cameras, 1, width) * _INIT_STD)
        self.token_embed = nn.Parameter(torch.randn(tokens, width) * _INIT_STD)
        # Of unit scores, or all queries would start as the same mean.
        self.queries = nn.Parameter(torch.randn(queries, width) / math.sqrt(width / num_heads))
        self.key_value = nn.Linear(width, 2 * width)

    def forward(self, latents: Tensor) -> Tensor:
        """Reduce `[b t c n d]` to `[b queries * width]`."""
        tokens = self._tokens(latents).flatten(1, 3)
        packed = self.key_value(tokens).unflatten(-1, (2, self.num_heads, -1))
        key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        query = self.queries.unflatten(-1, (self.num_heads, -1)).transpose(0, 1)
        mixed = attend(query.to(key.dtype).expand(len(latents), -1, -1, -1), key, value)
        return mixed.transpose(1, 2).flatten(1)

    def _tokens(self, latents: Tensor) -> Tensor:
        """Return projection(norm(latents)) + embeddings, `[b t c n width]`.

        The norm's scale and offset are multiplied into the projection, and all that does not depend on the
        sample is added up first. That is the same function, but as latents need no gradient, the backward
        pass then ends at the projection's weights.
        """
        scaled = self.projection.weight * self.norm.weight
        offset = self.projection.weight @ self.norm.bias + self.projection.bias
        normalised = F.layer_norm(latents, self.norm.normalized_shape, eps=self.norm.eps)
        return F.linear(normalised, scaled) + (self.frame_embed + self.token_embed + offset)
