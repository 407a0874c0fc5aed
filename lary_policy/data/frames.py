"""Frame files: their content id and their full decoding."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lary_policy.errors import FrameFormatError


def frame_id(path: Path) -> str:
    """Return the sha256 (64 hex digits) of the file's bytes.

    Raises:
        FrameFormatError: The file is missing or cannot be read.
    """
    return hashlib.sha256(_read(path)).hexdigest()


def decode_frame(path: Path) -> Tensor:
    """Decode an image completely to uint8 RGB `[h, w, 3]`.

    Raises:
        FrameFormatError: The file is missing, truncated, corrupt or no image.
    """
    data = _read(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            pixels = np.array(image.convert("RGB"))
    # Pillow reports damage as any of these, depending on the format and on where the damage is.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise FrameFormatError(
            expected=f"a complete image at {path}",
            got=f"{len(data)} bytes that do not decode ({type(error).__name__}: {error})",
            fix="Restore the file; rows that use it are quarantined until then.",
        ) from error
    return torch.from_numpy(pixels)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FrameFormatError(
            expected=f"an image at {path}",
            got="no such file" if isinstance(error, FileNotFoundError) else f"{error.strerror}",
            fix="Restore the file; rows that use it are quarantined until then.",
        ) from error
