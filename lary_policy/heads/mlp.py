"""The regression head: pooled latents to a chunk of normalised actions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from lary_policy.errors import ConfigError, ShapeError
from lary_policy.heads.objective import action_objective
from lary_policy.heads.pool import LatentShape, Pool, PoolConfig, TokenGrid
from lary_policy.heads.registry import HeadKind, HeadSizes, register_head


@dataclass(frozen=True)
class ActionExpertConfig:
    """Size of an `ActionExpert`; the defaults are LARYBench's MLP expert (protocol section 5.2).

    Attributes:
        width: Hidden width.
        num_blocks: Residual blocks.
        pool: Reduction of the latents in front.

    Raises:
        ConfigError: A size is not positive.
    """

    width: int = 4096
    num_blocks: int = 2
    pool: PoolConfig = field(default_factory=PoolConfig)
    kind: ClassVar[str] = "mlp"

    def __post_init__(self) -> None:
        if self.width < 1 or self.num_blocks < 0:
            raise ConfigError(
                expected="width >= 1 and num_blocks >= 0",
                got=f"width {self.width}, num_blocks {self.num_blocks}",
                fix="Correct the head configuration.",
            )

    @property
    def label(self) -> str:
        """Short name used in scores, e.g. `mlp512-project32`."""
        return f"mlp{self.width}-{self.pool.label}"


class ResidualBlock(nn.Module):
    """x + ReLU(Linear(LN(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map `[b width]` to `[b width]`."""
        return hidden + F.relu(self.linear(self.norm(hidden)))


class ActionExpert(nn.Module):
    """MLP of LARYBench's regression probe behind a pool; PyTorch's default initialisation, no dropout.

    LN -> Linear -> ReLU -> blocks x + ReLU(Linear(LN(x))) -> LN -> Linear. Proprioception, if any, is
    concatenated to the normalised latent vector; its columns of the first matrix are a layer of their own,
    so that a few numbers are not drowned by thousands of latents at initialisation.

    Args:
        latent_shape: (t, c, n, d) of the latents.
        chunk: Actions k of one chunk.
        action_dim: Numbers a of one action.
        pool: Reduction of the latents in front.
        width: Hidden width (reference: 4096).
        num_blocks: Residual blocks (reference: 2).
        proprio_dim: Length of the proprioception vector, 0 for none.
        token_grid: Layout of the tokens, needed by the pool `grid`.
    """

    def __init__(
        self,
        latent_shape: LatentShape,
        chunk: int,
        action_dim: int,
        *,
        pool: PoolConfig | None = None,
        width: int = 4096,
        num_blocks: int = 2,
        proprio_dim: int = 0,
        token_grid: TokenGrid | None = None,
    ) -> None:
        super().__init__()
        self.chunk, self.action_dim, self.proprio_dim = chunk, action_dim, proprio_dim
        self.pool = Pool(pool or PoolConfig(), latent_shape, token_grid)
        self.norm_in = nn.LayerNorm(self.pool.out_features)
        self.fc_in = nn.Linear(self.pool.out_features, width)
        self.fc_proprio = nn.Linear(proprio_dim, width, bias=False) if proprio_dim else None
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(num_blocks)))
        self.norm_out = nn.LayerNorm(width)
        self.fc_out = nn.Linear(width, chunk * action_dim)

    def forward(self, latents: Tensor, proprio: Tensor | None = None) -> Tensor:
        """Predict normalised actions `[b k a]` from latents `[b t c n d]` and proprioception `[b p]`.

        Raises:
            ShapeError: Latents or proprioception are of another shape than at construction, or the
                proprioception is missing or not wanted.
        """
        hidden = self.fc_in(self.norm_in(self.pool(latents)))
        if self.fc_proprio is not None or proprio is not None:
            hidden = hidden + embed_proprio(self.fc_proprio, self.proprio_dim, proprio)
        hidden = self.blocks(F.relu(hidden))
        return self.fc_out(self.norm_out(hidden)).unflatten(-1, (self.chunk, self.action_dim))


def embed_proprio(layer: nn.Linear | None, proprio_dim: int, proprio: Tensor | None) -> Tensor:
    """Apply a head's layer for proprioception `[b p]`.

    Raises:
        ShapeError: The proprioception is missing, not wanted or of another length.
    """
    if layer is None or proprio is None or proprio.shape[-1] != proprio_dim:
        raise ShapeError(
            expected=f"proprioception [b, {proprio_dim}]" if proprio_dim else "no proprioception",
            got="none" if proprio is None else f"{tuple(proprio.shape)}",
            fix="Feed the head the inputs it was trained with (see head.json).",
        )
    return layer(proprio)


def _build(config: ActionExpertConfig, sizes: HeadSizes) -> ActionExpert:
    return ActionExpert(
        sizes.latent_shape,
        sizes.chunk,
        sizes.action_dim,
        pool=config.pool,
        width=config.width,
        num_blocks=config.num_blocks,
        proprio_dim=sizes.proprio_dim,
        token_grid=sizes.token_grid,
    )


register_head(HeadKind(ActionExpertConfig, _build, "numbers", lambda _: action_objective()))
