"""Procedural textures: no image files in the package."""

from __future__ import annotations

import numpy as np


def wood(size_px: int, *, planks: int = 6, seed: int = 0) -> np.ndarray:
    """Return a light wooden board, uint8 `[size_px, size_px, 3]`, the same for the same seed.

    Low contrast on purpose: the texture gives the encoder something real to see without hiding objects.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size_px, 0:size_px] / size_px
    plank = np.minimum((columns * planks).astype(int), planks - 1)
    shift, tone = rng.uniform(0, 10, planks)[plank], rng.uniform(-0.05, 0.05, planks)[plank]
    wave = np.sin(2 * np.pi * (rows * 1.5 + shift)) * 0.02 + columns
    grain = np.sin(2 * np.pi * 38 * wave + shift) * 0.03 + rng.normal(0, 0.012, (size_px, size_px))
    gap = np.where((columns * planks) % 1 < 0.03, -0.14, 0.0)
    base = np.array([0.80, 0.68, 0.52])
    colour = base * (1 + tone + grain + gap)[..., None]
    return (np.clip(colour, 0, 1) * 255).round().astype(np.uint8)
