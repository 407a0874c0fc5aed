"""Encoders and frames that several tests share."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lary_policy.encoders import LatentEncoder, encoder_spec, load_encoder


@functools.cache
def _random_encoder(name: str) -> LatentEncoder:
    """Return an encoder of 4 x 4 patches with random weights; built once a run."""
    return load_encoder(name, weights="random", image_px=4 * encoder_spec(name).size_multiple)


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
    """Return uint8 noise [2 3 40 50 3]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 40, 50, 3), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="session")
def random_encoder() -> Callable[[str], LatentEncoder]:
    """Return the function from names to small random encoders."""
    return _random_encoder


@pytest.fixture(scope="session")
def photo() -> Callable[[int, int], torch.Tensor]:
    """Return the function from (height, width) to an image."""
    return _photo
