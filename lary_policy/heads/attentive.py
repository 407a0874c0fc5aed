"""The classification head: a learned query that attends to all tokens of all frames."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lary_policy.errors import ConfigError, ShapeError, UnknownNameError
from lary_policy.heads.objective import class_objective
from lary_policy.heads.pool import attend
from lary_policy.heads.registry import HeadKind, HeadSizes, register_head

Temporal = Literal["auto", "always", "never"]
_INIT_STD = 0.02  # protocol section 4.1


@dataclass(frozen=True)
class AttentiveProbeConfig:
    """Size of an `AttentiveProbe`; the defaults are LARYBench's probe (protocol section 4.1).

    Attributes:
        width: Model width.
        num_self_blocks: Self-attention blocks before the pooling cross-attention.
        num_heads: Attention heads; must divide `width`.
        mlp_ratio: Hidden width of the MLPs over `width`.
        max_frames: Length of the temporal embedding; longer clips interpolate it.
        temporal: Whether frames carry the temporal embedding: `auto` if there are several. The reference
            decides by the array's dimensions: `always` for those that have a time axis of length 1.

    Raises:
        ConfigError: A size is not positive, the heads do not divide the width, or `temporal` is unknown.
    """

    width: int = 768
    num_self_blocks: int = 3
    num_heads: int = 16
    mlp_ratio: float = 4.0
    max_frames: int = 128
    temporal: Temporal = "auto"
    kind: ClassVar[str] = "attentive"

    def __post_init__(self) -> None:
        if min(self.width, self.num_heads, self.max_frames) < 1 or self.num_self_blocks < 0:
            raise ConfigError(
                expected="positive sizes and num_self_blocks >= 0", got=f"{self}", fix="Correct the head."
            )
        if self.temporal not in get_args(Temporal):
            raise UnknownNameError("head.temporal", self.temporal, get_args(Temporal))
        if self.width % self.num_heads:
            raise ConfigError(
                expected="num_heads that divides width",
                got=f"{self.num_heads} heads for width {self.width}",
                fix="Correct head.num_heads or head.width.",
            )

    @property
    def label(self) -> str:
        """Short name used in scores, e.g. `attentive768x4`."""
        return f"attentive{self.width}x{self.num_self_blocks + 1}"


class FeedForward(nn.Module):
    """Linear -> GELU -> Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map `[... d]` to `[... d]`."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class SelfBlock(nn.Module):
    """Pre-norm transformer block: x + attention(LN(x)), then x + MLP(LN(x))."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, int(width * mlp_ratio))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map `[b n d]` to `[b n d]`."""
        packed = self.qkv(self.norm1(tokens)).unflatten(-1, (3, self.num_heads, -1))
        mixed = attend(*packed.permute(2, 0, 3, 1, 4).unbind(0))
        tokens = tokens + self.proj(mixed.transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.norm2(tokens))


class PoolingBlock(nn.Module):
    """Cross-attention of one learned query to tokens, without norm on the query and output projection.

    The query is the same for every sample, so keys and values of the tokens are never formed: scores are
    tokens @ (W_k^T q), and values W_v (sum of weighted tokens). That is the same function (the key bias
    cancels in the softmax, the value bias passes through as weights sum to 1) for 2 heads instead of 2 width
    multiplications a number.
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, int(width * mlp_ratio))

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """Pool tokens `[b n d]` with the query `[d]` into `[b d]`."""
        context = self.norm1(tokens)
        pooled = self._weights(query, context) @ context  # [b heads d]
        matrix, bias = (p.unflatten(0, (2, self.num_heads, -1))[1] for p in (self.kv.weight, self.kv.bias))
        values = torch.einsum("bhd,hed->bhe", pooled, matrix) + bias
        hidden = query + values.flatten(1)
        return hidden + self.mlp(self.norm2(hidden))

    def weights(self, query: Tensor, tokens: Tensor) -> Tensor:
        """Return the attention `[b heads n]` that `forward` uses; it sums to 1 over n."""
        return self._weights(query, self.norm1(tokens))

    def _weights(self, query: Tensor, context: Tensor) -> Tensor:
        heads = self.q(query).unflatten(-1, (self.num_heads, -1))  # [heads e]
        matrix = self.kv.weight.unflatten(0, (2, self.num_heads, -1))[0]  # [heads e d]
        seen = torch.einsum("he,hed->hd", heads, matrix) / math.sqrt(heads.shape[-1])
        return (context @ seen.T).transpose(1, 2).softmax(-1)


class AttentiveProbe(nn.Module):
    """LARYBench's probe: projector, temporal embedding, self-attention blocks, one pooling query, linear.

    Tokens of all cameras of a frame stand side by side; frames carry a learned temporal embedding, which by
    default a single frame or clip latent (t = 1) does not get.

    Args:
        latent_shape: (t, c, n, d) of the latents.
        num_classes: Classes.
        width: Model width (reference: 768).
        num_self_blocks: Self-attention blocks (reference: 3).
        num_heads: Attention heads (reference: 16).
        mlp_ratio: Hidden width of the MLPs over `width` (reference: 4).
        max_frames: Length of the temporal embedding (reference: 128); longer clips interpolate it.
        temporal: Whether frames carry it: `auto` if there are several, `always` or `never`.
    """

    def __init__(
        self,
        latent_shape: tuple[int, int, int, int],
        num_classes: int,
        *,
        width: int = 768,
        num_self_blocks: int = 3,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        max_frames: int = 128,
        temporal: Temporal = "auto",
    ) -> None:
        super().__init__()
        self.latent_shape, self.num_classes = latent_shape, num_classes
        self.has_temporal = temporal == "always" or (temporal == "auto" and latent_shape[0] > 1)
        self.projector = nn.Sequential(nn.Linear(latent_shape[-1], width), nn.LayerNorm(width), nn.GELU())
        self.temporal_embed = nn.Parameter(torch.zeros(1, max_frames, 1, width))
        self.query_tokens = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(SelfBlock(width, num_heads, mlp_ratio) for _ in range(num_self_blocks))
        self.cross_attention_block = PoolingBlock(width, num_heads, mlp_ratio)
        self.linear = nn.Linear(width, num_classes)
        self._initialise()

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents `[b t c n d]` to logits `[b classes]`.

        Raises:
            ShapeError: The latents are not of the shape given at construction.
        """
        tokens = self._tokens(latents)
        return self.linear(self.cross_attention_block(self.query_tokens, tokens))

    def attention(self, latents: Tensor) -> Tensor:
        """Return the pooling query's weights `[b t c n]`, averaged over heads; each sample sums to 1."""
        weights = self.cross_attention_block.weights(self.query_tokens, self._tokens(latents))
        return weights.mean(1).reshape(latents.shape[:-1])

    def _tokens(self, latents: Tensor) -> Tensor:
        if tuple(latents.shape[1:]) != tuple(self.latent_shape):
            raise ShapeError(
                expected=f"latents [b, {', '.join(map(str, self.latent_shape))}] (b t c n d)",
                got=f"{tuple(latents.shape)}",
                fix="Build the head for these latents, or feed it the encoder it was trained on.",
            )
        tokens = self.projector(latents.flatten(2, 3))  # [b t c*n width]
        if self.has_temporal:
            tokens = tokens + self._temporal(tokens.shape[1]).to(
                tokens.dtype
            )  # or autocast widens all that follows
        tokens = tokens.flatten(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def _temporal(self, frames: int) -> Tensor:
        if frames <= self.temporal_embed.shape[1]:
            return self.temporal_embed[:, :frames]
        along_time = self.temporal_embed.squeeze(2).transpose(1, 2)  # [1 width max_frames]
        longer = F.interpolate(along_time, size=frames, mode="linear", align_corners=False)
        return longer.transpose(1, 2).unsqueeze(2)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Initialise as the reference does; the classifier keeps PyTorch's default.

        Truncated normal of std 0.02, zero biases; output matrices of block i are divided by
        sqrt(2 (i + 1)) and the pooling block's last one by the factor of the last self-attention block.
        """
        pooled = [self.projector, self.blocks, self.cross_attention_block]
        for module in (m for part in pooled for m in part.modules()):
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_INIT_STD)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.temporal_embed, std=_INIT_STD)
        nn.init.trunc_normal_(self.query_tokens, std=_INIT_STD)
        for depth, block in enumerate(self.blocks, start=1):
            for name in ("proj", "mlp.fc2"):
                block.get_submodule(name).get_parameter("weight").div_(math.sqrt(2 * depth))
        last = max(len(self.blocks), 1)
        self.cross_attention_block.mlp.fc2.weight.div_(math.sqrt(2 * last))


def _build(config: AttentiveProbeConfig, sizes: HeadSizes) -> AttentiveProbe:
    return AttentiveProbe(sizes.latent_shape, sizes.num_classes, **asdict(config))


register_head(HeadKind(AttentiveProbeConfig, _build, "class", lambda _: class_objective()))
