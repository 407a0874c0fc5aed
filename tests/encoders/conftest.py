"""Encoders and frames that several tests share."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lary_policy.encoders.base import LatentEncoder, encoder_spec, load_encoder


def _tiny_px(name: str) -> int:
    """Return a small input side: 4 x 4 patches; 6 x 6 where convolutions shrink their grid further."""
    spec = encoder_spec(name)
    return (4 if spec.patch_px else 6) * spec.size_multiple


@functools.cache
def _tiny_encoder(name: str) -> LatentEncoder:
    """Return a toy encoder with random weights; built once a run."""
    return load_encoder(name, weights="tiny-random", image_px=_tiny_px(name))


@functools.cache
def _photo(height: int, width: int) -> torch.Tensor:
    """Return a smooth image with edges, uint8 [h w 3]: what a camera gives rather than noise."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    image = np.stack([0.2 + 0.6 * x, 0.3 + 0.3 * np.sin(9 * y) * x, 0.7 - 0.5 * x * y], axis=-1)
    image[(y - 0.5) ** 2 + (x - 0.35) ** 2 < 0.04] = (0.85, 0.2, 0.15)
    image[(abs(y - 0.7) < 0.12) & (abs(x - 0.7) < 0.15)] = (0.1, 0.35, 0.8)
    return torch.from_numpy((image * 255).round().astype(np.uint8))


@pytest.fixture
def noise_frames() -> torch.Tensor:
    """Return uint8 noise [2 4 40 50 3]: an even number of frames, which every kind of encoder takes."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 4, 40, 50, 3), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="session")
def tiny_encoder() -> Callable[[str], LatentEncoder]:
    """Return the function from names to toy encoders with random weights."""
    return _tiny_encoder


@pytest.fixture(scope="session")
def tiny_px() -> Callable[[str], int]:
    """Return the function from names to the input side of their toy encoder."""
    return _tiny_px


@pytest.fixture(scope="session")
def photo() -> Callable[[int, int], torch.Tensor]:
    """Return the function from (height, width) to an image."""
    return _photo
