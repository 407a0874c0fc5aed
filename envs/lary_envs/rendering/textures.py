"""Procedural textures: no image files in the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

type Rgb = tuple[float, float, float]


def wood(size_px: int, *, planks: int = 6, seed: int = 0, rgb: Rgb = (0.80, 0.68, 0.52)) -> np.ndarray:
    """Return a wooden board, light by default, uint8 `[size_px, size_px, 3]`, the same for the same seed.

    Low contrast on purpose: the texture gives the encoder something real to see without hiding objects.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size_px, 0:size_px] / size_px
    plank = np.minimum((columns * planks).astype(int), planks - 1)
    shift, tone = rng.uniform(0, 10, planks)[plank], rng.uniform(-0.05, 0.05, planks)[plank]
    wave = np.sin(2 * np.pi * (rows * 1.5 + shift)) * 0.02 + columns
    grain = np.sin(2 * np.pi * 38 * wave + shift) * 0.03 + rng.normal(0, 0.012, (size_px, size_px))
    gap = np.where((columns * planks) % 1 < 0.03, -0.14, 0.0)
    return _coloured(1 + tone + grain + gap, rgb)


def stone(size_px: int, *, seed: int = 0, rgb: Rgb = (0.62, 0.63, 0.66)) -> np.ndarray:
    """Return grey stone, uint8 `[size_px, size_px, 3]`: speckles of three sizes."""
    rng = np.random.default_rng(seed)
    shade = np.ones((size_px, size_px))
    for cell in (1, 4, 16):
        spots = rng.normal(0, 0.05, (-(-size_px // cell),) * 2)
        shade += np.kron(spots, np.ones((cell, cell)))[:size_px, :size_px]
    return _coloured(shade, rgb)


def cloth(size_px: int, *, seed: int = 0, rgb: Rgb = (0.55, 0.62, 0.70)) -> np.ndarray:
    """Return checked cloth, uint8 `[size_px, size_px, 3]`: stripes both ways and the threads between them."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size_px, 0:size_px] / size_px
    stripes = sum(np.where((way * 8) % 1 < 0.5, 0.08, -0.08) for way in (rows, columns))
    return _coloured(1 + stripes + rng.normal(0, 0.03, (size_px, size_px)), rgb)


# What a table may look like; `wood` is the plain scene's.
TABLE_TEXTURES: Mapping[str, Callable[[int], np.ndarray]] = {
    "wood": wood,
    "oak": partial(wood, planks=5, seed=1, rgb=(0.72, 0.58, 0.42)),
    "walnut": partial(wood, planks=7, seed=2, rgb=(0.58, 0.45, 0.34)),
    "beech": partial(wood, planks=9, seed=3, rgb=(0.84, 0.74, 0.62)),
    "stone": stone,
    "cloth": cloth,
}


def _coloured(shade: np.ndarray, rgb: Rgb) -> np.ndarray:
    colour = np.array(rgb) * shade[..., None]
    return (np.clip(colour, 0, 1) * 255).round().astype(np.uint8)
