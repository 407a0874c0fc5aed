"""From token latents to one vector: the part of a head that decides its capacity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lary_policy.errors import ConfigError, ShapeError

LatentShape = tuple[int, int, int, int]  # (t, c, n, d) of one sample
TokenGrid = tuple[int, ...]  # (h, w) or (t, h, w)
_INIT_STD = 0.02  # as in the attentive probe
_MAX_PLAIN_SCORES = 1 << 24  # attention scores held in memory at once, 32 MB in bfloat16


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention over `[b heads n e]`.

    Torch's fused CPU kernel has a slow backward pass: for 128 tokens in bfloat16 on AMX two plain products
    and a softmax take a quarter of its time. They need memory for the scores, so long inputs stay fused.
    """
    scores = query.shape[:-1].numel() * key.shape[-2]
    if query.device.type != "cpu" or scores > _MAX_PLAIN_SCORES:
        return F.scaled_dot_product_attention(query, key, value)
    return (query / math.sqrt(query.shape[-1]) @ key.transpose(-1, -2)).softmax(-1) @ value


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


class KeypointPool(nn.Module):
    """Where each of `points` learned features is: spatial softmax (Finn et al. 2016, arXiv 1509.06113).

    Tokens are normalised and mapped to one score a feature; a softmax over the grid makes weights of a
    feature's scores, and their mean position is what is kept.

    Args:
        features: Width d of a token.
        points: Number of features.
        grid: (time, h, w) of the tokens; each time has points of its own.
    """

    where: Tensor

    def __init__(self, features: int, points: int, grid: tuple[int, int, int]) -> None:
        super().__init__()
        self.times, height, width = grid
        self.norm = nn.LayerNorm(features)
        self.scores = nn.Linear(features, points, bias=False)  # a softmax does not see an offset
        rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
        places = torch.cartesian_prod(rows, columns).flip(-1)  # [h*w 2], x before y
        self.register_buffer("where", places, persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        """Reduce `[b t c n d]` to positions `[b t c time points 2]`, x and y from -1 to 1."""
        scores = self.scores(self.norm(latents)).unflatten(3, (self.times, -1))  # [b t c time h*w points]
        return scores.softmax(-2).mT @ self.where.to(scores.dtype)


PoolKind = Literal["flatten", "grid", "mean", "project", "attentive", "keypoints"]
POOL_KINDS: tuple[PoolKind, ...] = ("flatten", "grid", "mean", "project", "attentive", "keypoints")


@dataclass(frozen=True)
class PoolConfig:
    """How tokens become one vector.

    Attributes:
        kind: `flatten` keeps every number (LARYBench's regression probe, protocol section 5.1), `grid`
            averages the token grid to `grid` x `grid`, `mean` averages all tokens, `project` maps each token
            to `width` numbers with one matrix shared by all tokens, frames and cameras, `attentive` lets
            `queries` learned queries attend to all tokens (`AttentivePool`), `keypoints` keeps where each of
            `width` learned features is (`KeypointPool`).
        width: Numbers kept of each token, for `project`, or by each query, for `attentive`; number of points.
        grid: Side of the averaged grid, for `grid`.
        queries: Number of queries, for `attentive`.
        num_heads: Attention heads of each query, for `attentive`.

    Raises:
        ConfigError: The kind is unknown, a size is not positive, or the heads do not divide the width.
    """

    kind: PoolKind = "flatten"
    width: int = 32
    grid: int = 4
    queries: int = 16
    num_heads: int = 4

    def __post_init__(self) -> None:
        if self.kind not in POOL_KINDS:
            raise ConfigError(
                expected=f"a pool kind of {', '.join(POOL_KINDS)}",
                got=f"'{self.kind}'",
                fix="Correct head.pool.kind.",
            )
        if min(self.width, self.grid, self.queries, self.num_heads) < 1:
            raise ConfigError(
                expected="positive pool sizes",
                got=f"width {self.width}, grid {self.grid}, queries {self.queries}, heads {self.num_heads}",
                fix="Correct the sizes of head.pool.",
            )
        if self.kind == "attentive" and self.width % self.num_heads:
            raise ConfigError(
                expected="head.pool.num_heads that divides head.pool.width",
                got=f"{self.num_heads} heads for width {self.width}",
                fix="Correct head.pool.num_heads or head.pool.width.",
            )

    @property
    def label(self) -> str:
        """Short name with the sizes that matter, e.g. `project32`."""
        sizes = {
            "grid": f"{self.grid}",
            "project": f"{self.width}",
            "attentive": f"{self.queries}x{self.width}",
            "keypoints": f"{self.width}",
        }
        return f"{self.kind}{sizes.get(self.kind, '')}"


class Pool(nn.Module):
    """Latents `[b t c n d]` to vectors `[b out_features]`.

    Frames t and cameras c stay apart and only tokens are reduced, but for `attentive`, whose queries see all
    of them. No normalisation happens here (but inside `attentive`): the reference normalises the flattened
    vector, which is the first layer of the head behind the pool.

    Args:
        config: Kind and sizes.
        latent_shape: (t, c, n, d) of the latents.
        token_grid: Layout of the n tokens, (h, w) or `LatentSpec.grid` = (t, h, w); needed by `grid` and
            `keypoints` only.

    Raises:
        ConfigError: `grid` or `keypoints` is asked for and the tokens have no such layout.
    """

    def __init__(
        self, config: PoolConfig, latent_shape: LatentShape, token_grid: TokenGrid | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.latent_shape = latent_shape
        frames, cameras, tokens, width = latent_shape
        self.token_grid = _layout(config, tokens, token_grid)
        self.projection = _projection(config, latent_shape, self.token_grid)
        kept = {
            "flatten": frames * cameras * tokens * width,
            "grid": frames * cameras * self.token_grid[0] * config.grid**2 * width,
            "mean": frames * cameras * width,
            "project": frames * cameras * tokens * config.width,
            "attentive": config.queries * config.width,
            "keypoints": frames * cameras * self.token_grid[0] * config.width * 2,
        }
        self.out_features: int = kept[config.kind]

    def forward(self, latents: Tensor) -> Tensor:
        """Reduce `[b t c n d]` to `[b out_features]`.

        Raises:
            ShapeError: The latents are not of the shape given at construction.
        """
        if tuple(latents.shape[1:]) != tuple(self.latent_shape):
            raise ShapeError(
                expected=f"latents [b, {', '.join(map(str, self.latent_shape))}] (b t c n d)",
                got=f"{tuple(latents.shape)}",
                fix="Build the head for these latents, or feed it the encoder it was trained on.",
            )
        if self.config.kind == "mean":
            latents = latents.mean(-2)
        elif self.config.kind == "grid":
            latents = self._average_grid(latents)
        return self.projection(latents).flatten(1)

    def _average_grid(self, latents: Tensor) -> Tensor:
        time, height, width = self.token_grid
        maps = latents.flatten(0, 2).unflatten(1, (time, height, width)).movedim(-1, 2)  # [btc time d h w]
        averaged = F.adaptive_avg_pool2d(maps.flatten(0, 1), self.config.grid)
        return averaged.movedim(1, -1).reshape(latents.shape[0], -1)


def _projection(config: PoolConfig, latent_shape: LatentShape, token_grid: tuple[int, int, int]) -> nn.Module:
    """Return the part of the pool that has weights."""
    if config.kind == "project":
        return nn.Linear(latent_shape[-1], config.width)
    if config.kind == "attentive":
        return AttentivePool(latent_shape, config.width, config.queries, config.num_heads)
    if config.kind == "keypoints":
        return KeypointPool(latent_shape[-1], config.width, token_grid)
    return nn.Identity()


def _layout(config: PoolConfig, tokens: int, token_grid: TokenGrid | None) -> tuple[int, int, int]:
    """Return (time, h, w) of the tokens; only pools that know places care."""
    if config.kind not in ("grid", "keypoints"):
        return (1, 1, tokens)
    if token_grid is None or len(token_grid) not in (2, 3) or math.prod(token_grid) != tokens:
        raise ConfigError(
            expected=f"a token grid (h, w) or (t, h, w) of {tokens} tokens for the pool '{config.kind}'",
            got=f"{token_grid}",
            fix="Use an encoder whose tokens have positions, or the pool 'mean', 'project' or 'flatten'.",
        )
    time, height, width = (1, *token_grid)[-3:]
    if config.kind == "grid" and config.grid > min(height, width):
        raise ConfigError(
            expected=f"head.pool.grid of at most {min(height, width)} for a {height} x {width} token grid",
            got=f"{config.grid}",
            fix="Lower head.pool.grid.",
        )
    return (time, height, width)
