"""UniVLA's latent action model: what a frame pair's DINOv2 features say about the action between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lary_policy.encoders.codebook import NearestCode
from lary_policy.encoders.kinds import PairTokens

WAVELENGTH = 10_000.0  # base of the sinusoidal positions, as in the original transformer


def sinusoidal_positions(tokens: int, width: int, device: torch.device) -> Tensor:
    """Return float32 positions [n d] with sine and cosine interleaved."""
    position = torch.arange(tokens, device=device, dtype=torch.float32)[:, None]
    exponent = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    angles = position * torch.exp(exponent * (-math.log(WAVELENGTH) / width))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class TokenAttention(nn.Module):
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


class PreNormBlock(nn.Module):
    """Attention within each frame, causal attention over time at each token, feed-forward; all pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.spatial_attn = TokenAttention(width, heads)
        self.temporal_attn = TokenAttention(width, heads)
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
        self.spatial_attn = TokenAttention(width, heads)
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
        self.transformer_blocks = nn.ModuleList(PreNormBlock(width, heads) for _ in range(depth))

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


@dataclass(frozen=True)
class UniVlaConfig:
    """Architecture; the defaults are the published second stage."""

    feature_width: int = 768  # width of the backbone's patch tokens
    width: int = 768  # width of encoder and decoder
    heads: int = 12  # attention heads of both
    encoder_depth: int = 12  # space-time blocks
    decoder_depth: int = 12  # blocks of the decoder
    action_tokens: int = 4  # tokens of the action, and as many of everything else that changes
    codes: int = 16  # entries of each codebook
    code_width: int = 128  # width of a code
    controllable: bool = True  # the second stage, which tells what the robot did from the rest


class UniVlaModel(nn.Module):
    """Encoder, codebooks, decoder and frozen backbone under the names of the published checkpoints.

    `vq_action` quantises what the robot did, `vq` what else changed; the benchmark uses the first alone. A
    model of the first stage has `vq` only.

    Args:
        config: Architecture.
        backbone: Module from images [m 3 h w] to patch tokens [m n d] of `config.feature_width`.
    """

    def __init__(self, config: UniVlaConfig, backbone: nn.Module) -> None:
        super().__init__()
        c = config
        self.config = c
        both = c.controllable  # the order of parts is that in which weights have always been drawn
        self.action_latent = _queries(c)
        self.encoder = Encoder(c.feature_width, c.width, c.encoder_depth, c.heads)
        self.to_codebook = nn.Linear(c.width, c.code_width)
        if both:
            self.to_codebook_uncontrol = nn.Linear(c.width, c.code_width)
        self.vq = NearestCode(c.codes, c.code_width, "codebook")
        self.patch_up = nn.Linear(c.feature_width, c.width)
        self.action_up = nn.Linear(c.code_width, c.width)
        if both:
            self.action_up_uncontrol = nn.Linear(c.code_width, c.width)
        self.decoder = Decoder(c.width, c.feature_width, c.decoder_depth, c.heads)
        if both:
            self.vq_action = NearestCode(c.codes, c.code_width, "codebook")
            self.action_latent_controllable = _queries(c)
        self.dino_encoder = backbone

    @property
    def books(self) -> tuple[NearestCode, ...]:
        """The codebooks: that of the action, then that of the rest."""
        return (self.vq_action, self.vq) if self.config.controllable else (self.vq,)

    def features(self, images: Tensor) -> Tensor:
        """Return the backbone's patch tokens [m n d] of images [m 3 h w]."""
        return self.dino_encoder(images)

    def action(self, first: Tensor, second: Tensor) -> PairTokens:
        """Return the action tokens between patch tokens [p n d] of two frames."""
        continuous = self.changes(first, second)[0]
        return PairTokens(continuous, *self.books[0](continuous))

    def changes(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        """Return what each of `books` is asked about patch tokens [p n d] of two frames, [p m q] each."""
        patches = torch.stack((first, second), dim=1)  # [p 2 n d]
        both = self.config.controllable
        queries = (self.action_latent_controllable, self.action_latent) if both else (self.action_latent,)
        expanded = [query.expand(len(patches), 2, -1, -1) for query in queries]
        tokens = self.encoder(torch.cat((*expanded, patches), dim=2))[:, 1]
        parts = tokens[:, : len(queries) * self.config.action_tokens].chunk(len(queries), dim=1)
        layers = (self.to_codebook, self.to_codebook_uncontrol) if both else (self.to_codebook,)
        return tuple(layer(part) for layer, part in zip(layers, parts, strict=True))

    def predict(self, first: Tensor, codes: tuple[Tensor, ...]) -> Tensor:
        """Return the second frame's patch tokens [p n d] from the first's and codes [p m q] of each book."""
        both = self.config.controllable
        layers = (self.action_up, self.action_up_uncontrol) if both else (self.action_up,)
        parts = [layer(code) for layer, code in zip(layers, codes, strict=True)]
        return self.decoder(torch.cat((*parts, self.patch_up(first)), dim=1))[:, -first.shape[1] :]

    def reconstruct(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the second frame's patch tokens [p n d] as decoded from the first and all codes."""
        vectors = self.changes(first, second)
        return self.predict(first, tuple(book(one)[0] for book, one in zip(self.books, vectors, strict=True)))


def _queries(config: UniVlaConfig) -> nn.Parameter:
    return nn.Parameter(torch.empty(1, 1, config.action_tokens, config.feature_width).uniform_(-1, 1))
