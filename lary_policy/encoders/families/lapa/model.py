"""The latent action quantiser of LAPA: what happened between two frames, as a few tokens.

Two frames' tokens pass a spatial and a temporal transformer together; the difference between what becomes of
them is thinned out to s vectors and quantised. Everything a published checkpoint holds is here under its
name, the decoder that predicts the second frame included, although encoding does not run it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lary_policy.encoders.families.lapa.layers import RelativeBias, Transformer
from lary_policy.encoders.families.lapa.quantiser import NSVQ
from lary_policy.encoders.kinds import PairTokens

# A 64-bit digest as digits from 0 to 255, which every floating point dtype holds exactly.
DIGITS = 8


def sign_frames(images: Tensor, tokens: Tensor) -> Tensor:
    """Put a row that identifies each frame in front of its tokens: [m n d], d >= 8, to [m n+1 d].

    The bytes of the frames as model input [m 3 h w] decide.
    """
    flat = images.detach().to("cpu").flatten(1).contiguous().view(torch.uint8).numpy()
    digests = [list(hashlib.blake2b(row, digest_size=DIGITS).digest()) for row in flat]
    row = tokens.new_zeros(len(tokens), 1, tokens.shape[2])
    row[:, 0, :DIGITS] = torch.tensor(digests).to(tokens)
    return torch.cat([row, tokens], dim=1)


def unsign_frames(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens [m n d] and the signatures [m 8] of features [m n+1 d] from `sign_frames`."""
    return features[:, 1:], features[:, 0, :DIGITS]


def pair_noise(seed: int, first: Tensor, second: Tensor, shape: torch.Size) -> Tensor:
    """Draw standard normal numbers `shape` [p s q] that depend on the seed and the frames of each pair alone.

    First and second frames have signatures [p 8]. The noise has their device and dtype, but is drawn on the
    CPU, where it is the same for every device.
    """
    signatures = torch.cat([first, second], dim=1).to("cpu", torch.uint8)
    noise = torch.empty(shape)
    for row, signature in zip(noise, signatures, strict=True):
        digest = hashlib.blake2b(f"{seed}:".encode() + bytes(signature.tolist()), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big", signed=True))
        row.normal_(generator=generator)
    return noise.to(first)


@dataclass(frozen=True)
class LaqConfig:
    """Sizes of a latent action quantiser; a checkpoint's shapes tell all of them."""

    dim: int  # width d of its tokens, that of the features where it gets some
    codes: int = 8  # codes in the codebook
    code_width: int = 32  # width q of a code
    code_seq_len: int = 16  # name of the network that thins the grid out, see `nsvq.CODE_NETWORKS`
    spatial_depth: int = 4  # layers of the spatial encoder and of the decoder
    temporal_depth: int = 4  # layers of the temporal encoder
    heads: int = 16  # attention heads
    head_width: int = 64  # width of a head
    input_patch_px: int | None = None  # side of the patches that it embeds itself; None when it gets features
    # Side of the patches that its decoder predicts; None when it predicts features
    output_patch_px: int | None = None


class LatentActionQuantiser(nn.Module):
    """Tokens of two frames to vectors that tell what changed."""

    def __init__(self, config: LaqConfig) -> None:
        super().__init__()
        dim, heads, head_width = config.dim, config.heads, config.head_width
        self.config = config
        self.spatial_rel_pos_bias = RelativeBias(dim, heads)
        self.enc_spatial_transformer = Transformer(dim, config.spatial_depth, heads, head_width)
        self.enc_temporal_transformer = Transformer(dim, config.temporal_depth, heads, head_width)
        self.vq = NSVQ(dim, config.codes, config.code_width, config.code_seq_len)
        self.dec_spatial_transformer = Transformer(dim, config.spatial_depth, heads, head_width, cross=True)
        if config.input_patch_px:
            self.to_patch_emb_first_frame = _patch_embedding(config.input_patch_px, dim)
        if config.output_patch_px:
            pixels = 3 * config.output_patch_px**2
            self.to_pixels_first_frame = nn.Sequential(
                nn.Linear(dim, pixels), _Unpatches(config.output_patch_px)
            )

    def encode(self, tokens: Tensor) -> Tensor:
        """Let the tokens [p 2 n d] of two frames see each other; the shape stays."""
        pairs, frames, cells, _ = tokens.shape
        side = isqrt(cells)
        video = (pairs, frames, side, side)
        x = self.enc_spatial_transformer(tokens.flatten(0, 1), video, self.spatial_rel_pos_bias(side))
        over_time = x.unflatten(0, (pairs, frames)).transpose(1, 2).flatten(0, 1)
        x = self.enc_temporal_transformer(over_time, video)
        return x.unflatten(0, (pairs, cells)).transpose(1, 2)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return vectors [p s q] that tell what changed between tokens [p n d] of two frames."""
        tokens = self.encode(torch.stack([first, second], dim=1))
        return self.vq.difference(tokens[:, 0], tokens[:, 1])

    def reconstruct(self, first: Tensor, actions: Tensor) -> Tensor:
        """Predict the second frame from tokens [p n d] of the first and action tokens [p s d].

        It comes as features [p n d], or as images [p 3 h w] where the decoder makes pixels.
        """
        side = isqrt(first.shape[1])
        x = self.dec_spatial_transformer(
            first, (len(first), 1, side, side), self.spatial_rel_pos_bias(side), actions
        )
        return self.to_pixels_first_frame(x) if self.config.output_patch_px else x


class LaqModel(nn.Module):
    """A quantiser behind the frozen network that makes its tokens.

    All outputs leave through the same projection in the same memory order (`NSVQ.decode`). What goes in is
    the difference itself (`continuous`: no noise, no code), the codes nearest to it (`quantised`: the
    inference path), or the difference plus noise as long as the quantisation error (`lary`: the training
    path, from which the reference extracts its features; here the noise belongs to the pair and the seed, see
    `pair_noise`).

    Args:
        quantiser: The latent action quantiser.
        backbone: From images [m 3 h w] to tokens [m n d]; None for a quantiser that embeds patches itself.
        noise_seed: Seed of the noise of `lary`; None leaves that output out.
    """

    def __init__(
        self, quantiser: LatentActionQuantiser, backbone: nn.Module | None, noise_seed: int | None = None
    ) -> None:
        super().__init__()
        self.quantiser = quantiser
        self.backbone = quantiser.to_patch_emb_first_frame if backbone is None else backbone
        self.noise_seed = noise_seed

    def features(self, images: Tensor) -> Tensor:
        """Return tokens [m n d] of images [m 3 h w]; with noise, a row in front identifies the frame."""
        tokens = self.backbone(images)
        return tokens if self.noise_seed is None else sign_frames(images, tokens)

    def action(self, first: Tensor, second: Tensor) -> PairTokens:
        """Return the three outputs and the codes of pairs, from what `features` made of their frames."""
        vq, seed = self.quantiser.vq, self.noise_seed
        if seed is None:
            return _tokens(vq, self.quantiser(first, second), None)
        first, first_signatures = unsign_frames(first)
        second, second_signatures = unsign_frames(second)
        difference = self.quantiser(first, second)
        return _tokens(
            vq, difference, pair_noise(seed, first_signatures, second_signatures, difference.shape)
        )


def _tokens(vq: NSVQ, difference: Tensor, noise: Tensor | None) -> PairTokens:
    indices = vq.nearest(difference)
    return PairTokens(
        continuous=vq.decode(difference),
        quantised=vq.decode(vq.codebooks[indices]),
        indices=indices,
        lary=None if noise is None else vq.decode(vq.substitute_noise(difference, noise)),
    )


class _Patches(nn.Module):
    """Images [m 3 h w] to their patches' pixels [m n 3*side*side], channel by channel."""

    def __init__(self, side_px: int) -> None:
        super().__init__()
        self.side_px = side_px

    def forward(self, images: Tensor) -> Tensor:
        return F.unfold(images, self.side_px, stride=self.side_px).mT


class _Unpatches(nn.Module):
    """The inverse of `_Patches` for square images."""

    def __init__(self, side_px: int) -> None:
        super().__init__()
        self.side_px = side_px

    def forward(self, patches: Tensor) -> Tensor:
        image_px = isqrt(patches.shape[1]) * self.side_px
        return F.fold(patches.mT, image_px, self.side_px, stride=self.side_px)


def _patch_embedding(patch_px: int, dim: int) -> nn.Sequential:
    pixels = 3 * patch_px**2
    return nn.Sequential(_Patches(patch_px), nn.LayerNorm(pixels), nn.Linear(pixels, dim), nn.LayerNorm(dim))
