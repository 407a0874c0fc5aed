"""One latent file of the reference: `tokens` and `indices` in a compressed .npz (protocol section 0)."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lary_policy.errors import StoreError


class NpzError(StoreError):
    """A latent file of the reference is missing or damaged; the store that others go into is sound."""


@dataclass(frozen=True, eq=False)
class NpzLatent:
    """What an encoder of the reference made of one pair or clip.

    Attributes:
        tokens: float32 `[n d]`, or `[t n d]` for encoders with one latent a frame or a pair of neighbours.
        codes: Codebook indices, int64 flat, or None for encoders without a codebook.
    """

    tokens: Tensor
    codes: Tensor | None


def read_npz(path: Path) -> NpzLatent:
    """Read a latent file without unpickling anything.

    Raises:
        NpzError: It is missing, damaged, not finite, or its tokens have neither two nor three dimensions.
    """
    if path.is_file() and not zipfile.is_zipfile(path):
        raise _unusable(path, "no zip archive, which every .npz is")
    try:
        with np.load(path, allow_pickle=False) as file:
            tokens, codes = file["tokens"], file["indices"] if "indices" in file else np.empty(0)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        missing = isinstance(error, FileNotFoundError)
        raise _unusable(path, "no such file" if missing else f"{type(error).__name__}: {error}") from error
    if tokens.ndim not in (2, 3) or tokens.size == 0 or tokens.dtype.kind != "f":
        raise _unusable(path, f"tokens of shape {tokens.shape} and dtype {tokens.dtype}")
    if not np.isfinite(tokens).all():
        raise _unusable(path, f"{int((~np.isfinite(tokens)).sum())} tokens that are NaN or infinite")
    quantised = codes.size > 0 and codes.dtype.kind in "iu"
    return NpzLatent(
        torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.float32)),
        torch.from_numpy(codes.reshape(-1).astype(np.int64)) if quantised else None,
    )


def _unusable(path: Path, reason: str) -> NpzError:
    return NpzError(
        expected=f"an array `tokens` [n d] or [t n d] in {path}",
        got=reason,
        fix="Extract this row again; rows without latents are quarantined until then.",
    )
