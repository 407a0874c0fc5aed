"""The vector quantiser of LAPA's latent action models: a difference of two frames becomes a few codes.

NSVQ (noise substitution, Vali and Bäckström 2022) trains a codebook by adding noise as large as the
quantisation error instead of snapping to the nearest code. Parameters have the published checkpoints' names.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor, nn

from lary_policy.errors import ConfigError, ShapeError

# The reference adds it to the ratio of norms; it matters only for a difference that is exactly a code.
EPS = 1e-12


@dataclass(frozen=True)
class Convolution:
    """One layer of the network that thins the patch grid out to codes."""

    kernel: tuple[int, int]
    stride: int = 1
    padding: int = 0

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Return the grid that a grid of `height` x `width` becomes."""
        sides = zip((height, width), self.kernel, strict=True)
        height, width = ((side + 2 * self.padding - k) // self.stride + 1 for side, k in sides)
        return height, width


HALVE = Convolution((3, 3), stride=2, padding=1)
# By `code_seq_len`, the reference's name of each network: how many codes come out on the grid it was made
# for. On other grids the number differs, see `code_tokens`; 49 and 256 are the same network.
CODE_NETWORKS: dict[int, tuple[Convolution, ...]] = {
    1: (HALVE, Convolution((4, 4))),
    2: (HALVE, Convolution((3, 4))),
    4: (HALVE, Convolution((3, 3))),
    16: (HALVE, HALVE),
    49: (HALVE,),
    64: (Convolution((2, 2), stride=2, padding=1),),
    256: (HALVE,),
}


def code_tokens(code_seq_len: int, grid: int) -> int:
    """Return how many codes a `grid` x `grid` patch grid becomes.

    Raises:
        ConfigError: There is no such network, or the grid is too small for it.
    """
    if code_seq_len not in CODE_NETWORKS:
        raise ConfigError(
            expected=f"a code_seq_len of {', '.join(map(str, CODE_NETWORKS))}",
            got=str(code_seq_len),
            fix="Pass code_seq_len=16, for example.",
        )
    height = width = grid
    for layer in CODE_NETWORKS[code_seq_len]:
        height, width = layer.output(height, width)
    if height < 1 or width < 1:
        raise ConfigError(
            expected=f"a patch grid that code_seq_len {code_seq_len} can thin out",
            got=f"{grid} x {grid}",
            fix="Pass a larger image_px; weights that are there take the one they were trained at.",
        )
    return height * width


class NSVQ(nn.Module):
    """Quantises the difference of two frames' tokens of width d; codes have width q, see `LaqConfig`."""

    def __init__(self, dim: int, codes: int, code_width: int, code_seq_len: int) -> None:
        super().__init__()
        self.codebooks = nn.Parameter(torch.randn(codes, code_width))
        self.project_in = nn.Linear(dim, code_width)
        self.project_out = nn.Linear(code_width, dim)
        self.cnn_encoder = _network(code_width, CODE_NETWORKS[code_seq_len])

    def encode(self, tokens: Tensor) -> Tensor:
        """Thin the tokens [p n d] of a square patch grid out to vectors [p s q].

        Raises:
            ShapeError: n is not the area of a square.
        """
        side = isqrt(tokens.shape[1])
        if side * side != tokens.shape[1]:
            raise ShapeError(
                expected="tokens of a square patch grid",
                got=f"{tokens.shape[1]} tokens in {list(tokens.shape)}",
                fix="Pass patch tokens only, without class and register tokens.",
            )
        grid = self.project_in(tokens).mT.unflatten(2, (side, side))
        return self.cnn_encoder(grid).flatten(2).mT

    def difference(self, first: Tensor, second: Tensor) -> Tensor:
        """Return what changed from tokens `first` to `second` [p n d] as vectors [p s q]."""
        return self.encode(second) - self.encode(first)

    def nearest(self, difference: Tensor) -> Tensor:
        """Return the codes [p s] (int64) nearest to vectors [p s q]."""
        # Squared distance without the part that is the same for every code.
        distance = self.codebooks.square().sum(dim=1) - 2 * difference @ self.codebooks.T
        return distance.argmin(dim=-1)

    def substitute_noise(self, difference: Tensor, noise: Tensor) -> Tensor:
        """Add noise as long as the quantisation error: the training path, in which no code takes part.

        Vectors and standard normal numbers are [p s q] both.
        """
        residual = difference - self.codebooks[self.nearest(difference)]
        scale = residual.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True) + EPS
        return difference + scale * noise

    def decode(self, vectors: Tensor) -> Tensor:
        """Project vectors [p s q] to tokens [p s d], in the memory order that checkpoints were trained with.

        The s * q numbers of a pair are read as [q s] and transposed, which is not how they were laid out:
        channel k of token n is number k * s + n. Tokens therefore have no position in the image.
        """
        pairs, tokens, width = vectors.shape
        return self.project_out(vectors.reshape(pairs, width, tokens).mT)


def _network(width: int, layers: tuple[Convolution, ...]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for layer in layers:
        modules += [nn.Conv2d(width, width, layer.kernel, layer.stride, layer.padding), nn.ReLU()]
    return nn.Sequential(*modules[:-1])
