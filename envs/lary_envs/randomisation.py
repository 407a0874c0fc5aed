"""How much worlds may differ in colour, size, light, cameras and table: levels, and one seeded draw.

Poses are drawn by the tasks themselves, from another stream, so every level has the initial states of `none`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lary_policy.errors import UnknownNameError

_STREAM = 0x100C  # keeps these random numbers apart from those of the initial state, which uses the bare seed

type Range = tuple[float, float]
type Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Ranges:
    """Least and largest deviation from the plain scene; signs and directions are drawn freely.

    Attributes:
        hue: Of all objects and goals together, as a fraction of the colour circle.
        size: Of the objects and goals, as a fraction.
        light_turn_rad: Direction of the light that casts shadows.
        brightness: Of all lights, as a fraction.
        camera_shift_m: Position of the fixed cameras.
        camera_turn_rad: Orientation of the fixed cameras.
        textures: Names of the table's textures, see `lary_envs.textures.TABLE_TEXTURES`.
    """

    hue: Range
    size: Range
    light_turn_rad: Range
    brightness: Range
    camera_shift_m: Range
    camera_turn_rad: Range
    textures: tuple[str, ...]


# `shifted` begins where `train` has ended, in every quantity. Hues stay apart by 0.3 between red, green and
# magenta things, and the workspace stays inside the view.
LEVELS: Mapping[str, Ranges | None] = {
    "none": None,
    "train": Ranges(
        hue=(0.0, 0.03),
        size=(0.0, 0.04),
        light_turn_rad=(0.0, 0.20),
        brightness=(0.0, 0.10),
        camera_shift_m=(0.0, 0.01),
        camera_turn_rad=(0.0, 0.015),
        textures=("wood", "oak", "walnut", "beech"),
    ),
    "shifted": Ranges(
        hue=(0.06, 0.10),
        size=(0.06, 0.10),
        light_turn_rad=(0.35, 0.60),
        brightness=(0.20, 0.35),
        camera_shift_m=(0.02, 0.035),
        camera_turn_rad=(0.025, 0.045),
        textures=("stone", "cloth"),
    ),
}


@dataclass(frozen=True, eq=False)
class Variation:
    """One draw.

    Attributes:
        hue: Added to hues, as a fraction of the colour circle.
        scale: Factor of sizes.
        light_turn: `[3]` rotation vector (rad) of the shadow-casting light's direction.
        brightness: Factor of the lights' colours.
        camera_shift: `[c, 3]` metres, of each fixed camera.
        camera_turn: `[c, 3]` rotation vectors (rad).
        texture: Name of the table's texture.
    """

    hue: float
    scale: float
    light_turn: Vector
    brightness: float
    camera_shift: Vector
    camera_turn: Vector
    texture: str


def ranges_of(level: str) -> Ranges | None:
    """Return the ranges of a level; None means that nothing varies.

    Raises:
        UnknownNameError: There is no such level.
    """
    if level not in LEVELS:
        raise UnknownNameError("randomisation level", level, LEVELS)
    return LEVELS[level]


def draw_variation(seed: int, ranges: Ranges, num_cameras: int) -> Variation:
    """Draw how the world of one seed differs from the plain scene."""
    rng = np.random.default_rng([_STREAM, seed])
    light = np.append(_direction(rng, 2), 0.0)  # turned about a horizontal axis, or its direction would stay
    return Variation(
        hue=_signed(rng, ranges.hue),
        scale=1 + _signed(rng, ranges.size),
        light_turn=light * rng.uniform(*ranges.light_turn_rad),
        brightness=1 + _signed(rng, ranges.brightness),
        camera_shift=_directions(rng, num_cameras, ranges.camera_shift_m),
        camera_turn=_directions(rng, num_cameras, ranges.camera_turn_rad),
        texture=str(rng.choice(ranges.textures)),
    )


def _signed(rng: np.random.Generator, limits: Range) -> float:
    return float(rng.choice((-1, 1)) * rng.uniform(*limits))


def _direction(rng: np.random.Generator, size: int) -> Vector:
    vector = rng.normal(size=size)
    return vector / np.linalg.norm(vector)


def _directions(rng: np.random.Generator, count: int, limits: Range) -> Vector:
    return np.stack([_direction(rng, 3) * rng.uniform(*limits) for _ in range(count)])
