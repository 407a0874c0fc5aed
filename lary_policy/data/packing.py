"""Lossless packing of latents of 16 bits: exponents repeat, mantissas do not.

The byte with sign and exponent is compressed row by row, the other one stays as it is: normally distributed
numbers take 0.85 of their size in float16 and 0.70 in bfloat16, and each row can be read on its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

# Higher levels take twice the time and save nothing: there are no repetitions, only frequent bytes.
_CODEC = pa.Codec("zstd", compression_level=1)
_LOW, _HIGH, _ENDS, _SHAPE = "low_bytes", "high_bytes", "high_ends", "empty_latents"


def pack(latents: Tensor) -> dict[str, Tensor]:
    """Return the tensors that stand for latents `[f n d]` of 16 bits in a shard.

    They are all low bytes `[f n*d]`, the compressed high bytes one row after the other, where each row ends
    in them `[f]`, and an empty tensor `[0 n d]` of the latents' dtype.
    """
    planes = latents.contiguous().view(torch.uint8).view(len(latents), -1, 2)  # little-endian
    rows = [_CODEC.compress(memoryview(row.numpy()), asbytes=True) for row in planes[..., 1].contiguous()]
    return {
        _LOW: planes[..., 0].contiguous(),
        _ENDS: torch.tensor([len(row) for row in rows]).cumsum(0),
        _SHAPE: latents[:0].contiguous(),
        _HIGH: torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8),
    }


class PackedRows:
    """Rows of a packed shard; only those that are indexed are read and unpacked.

    Args:
        tensors: What `pack` returned.

    Raises:
        KeyError: One of the tensors is missing.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._low, self._high = tensors[_LOW].numpy(), tensors[_HIGH].numpy()
        self._ends = [0, *tensors[_ENDS].tolist()]
        self.dtype, self.shape = tensors[_SHAPE].dtype, (len(self._low), *tensors[_SHAPE].shape[1:])

    def __len__(self) -> int:
        return len(self._low)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the latents `[r n d]` of rows `[r]`."""
        out = np.empty((len(rows), self._low.shape[1], 2), np.uint8)
        for place, row in enumerate(rows.tolist()):
            packed = memoryview(self._high[self._ends[row] : self._ends[row + 1]])
            out[place, :, 0] = self._low[row]
            high = _CODEC.decompress(packed, decompressed_size=out.shape[1], asbytes=True)
            out[place, :, 1] = np.frombuffer(high, np.uint8)
        return torch.from_numpy(out).view(self.dtype).view(len(rows), *self.shape[1:])
