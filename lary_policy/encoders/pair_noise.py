"""Noise that belongs to a pair of frames, whatever batch or machine the pair is encoded in.

    signed = sign_frames(images, tokens)         # [m n+1 d]: a row that identifies the frame goes in front
    tokens, signatures = unsign_frames(signed)   # and comes off again
    noise = pair_noise(seed, first_signatures, second_signatures, shape)

The row travels with the frame's features, so a streamed pair gets the noise of the same pair in a batch. What
identifies a frame is the model input it becomes, so the noise follows input size, pipeline and dtype too.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

# A 64-bit digest as digits from 0 to 255, which every floating point dtype holds exactly.
DIGITS = 8


def sign_frames(images: Tensor, tokens: Tensor) -> Tensor:
    """Put a row that identifies each frame in front of its tokens.

    Args:
        images: Model input [m 3 h w]; its bytes decide.
        tokens: Features [m n d] of the same frames, d >= 8.

    Returns:
        Features [m n+1 d].
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
    """Draw standard normal numbers that depend on the seed and on the two frames of each pair alone.

    Args:
        seed: Any integer.
        first: Signatures [p 8] of the first frames.
        second: Signatures [p 8] of the second frames.
        shape: Shape [p s q] of the result.

    Returns:
        Noise [p s q] on the device and in the dtype of the signatures; drawn on the CPU, where it is the same
        for every device.
    """
    signatures = torch.cat([first, second], dim=1).to("cpu", torch.uint8)
    noise = torch.empty(shape)
    for row, signature in zip(noise, signatures, strict=True):
        digest = hashlib.blake2b(f"{seed}:".encode() + bytes(signature.tolist()), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big", signed=True))
        row.normal_(generator=generator)
    return noise.to(first)
