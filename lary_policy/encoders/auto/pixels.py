"""What a model's own processor makes of an image, as a `Preprocess`: found by running it on probes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lary_policy.encoders.preprocess import Preprocess, prepare_frames
from lary_policy.errors import ConfigError, summary

# From an image, uint8 [h w 3], to model input [3 h' w'].
Processor = Callable[[np.ndarray], Tensor]
Triple = tuple[float, float, float]

GREY_LEVELS = 1.0  # image libraries round differently on the way, each by less than this
LEAST_PX, MOST_PX = (
    8,
    2048,
)  # sides of inputs: no vision model has others, and larger probes would take minutes
# Flat images: their pixels tell scale, offset and order of the channels whatever happens to the geometry.
COLOURS = {"black": (0, 0, 0), "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
GREY = 128
RELATIVE = 1e-4  # of float32 arithmetic on grey levels, far below one of them
LIMIT = GREY_LEVELS * (1 + RELATIVE)
DIGITS = 7  # significant ones that float32 tells of a mean or a standard deviation


@dataclass(frozen=True)
class Hints:
    """What a configuration says, which the probes confirm or not."""

    mean: Triple | None  # per-channel mean on the [0, 1] scale, None where it says none
    std: Triple | None  # its standard deviation
    interpolation: str  # name of its filter
    sides: tuple[int, ...]  # sides that it may resize to before a crop
    floor: bool  # see `Preprocess.floor`


def measured_preprocess(name: str, processor: Processor, hints: Hints) -> tuple[int, Preprocess]:
    """Return input side and pipeline that equal a processor within one grey level on every probe.

    Whatever the processor raises becomes an error with the model's name; the hints say where to look first.

    Raises:
        ConfigError: The processor fails, or does something that no `Preprocess` does: other shapes than a
            square, padding, other arithmetic than scale and offset, another filter.
    """
    process = functools.partial(_checked, name, processor)
    flat = {colour: process(_flat(*rgb)) for colour, rgb in COLOURS.items()}
    image_px = flat["black"].shape[-1]
    mean, std, bgr = _levels(name, flat, process(_flat(GREY, GREY, GREY)), hints)
    shift, scale = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (mean, std))
    probes = _probes(image_px)
    wanted = [(process(probe).double() * scale + shift) * 255 for probe in probes]
    closest = float("inf")
    for candidate in _candidates(image_px, hints, bgr):
        off = 0.0
        for probe, pixels in zip(probes, wanted, strict=True):
            if off <= LIMIT:
                off = max(off, _distance(image_px, candidate, probe, pixels))
        if off <= LIMIT:
            return image_px, replace(candidate, mean=mean, std=std)
        closest = min(closest, off)
    raise not_reproducible(name, f"pixels that are off by {closest:.0f} grey levels from the closest of them")


def _candidates(image_px: int, hints: Hints, bgr: bool) -> Iterator[Preprocess]:
    """Yield geometries with every filter in grey levels, those of the hints first."""
    plain = Preprocess((0.0,) * 3, (1 / 255,) * 3, bgr=bgr)
    sides = sorted({side for side in hints.sides if image_px <= side <= 2 * image_px})
    crops = [replace(plain, crop=(side, image_px), floor=hints.floor) for side in sides]
    crops += [replace(crop, squash=True) for crop in crops]
    geometries = [plain, *crops, *(replace(crop, floor=not hints.floor) for crop in crops)]
    filters = dict.fromkeys((hints.interpolation, "bicubic", "bilinear", "lanczos", "nearest"))
    for antialias, interpolation, geometry in itertools.product((True, False), filters, geometries):
        if antialias or interpolation in ("bicubic", "bilinear"):
            yield replace(geometry, interpolation=interpolation, antialias=antialias)


def _distance(image_px: int, candidate: Preprocess, probe: np.ndarray, wanted: Tensor) -> float:
    frames = torch.from_numpy(probe)[None, None]
    ours = prepare_frames(frames, image_px, candidate, device=torch.device("cpu"), dtype=torch.float32)
    return float((ours[0] - wanted).abs().max())


def _levels(name: str, flat: dict[str, Tensor], grey: Tensor, hints: Hints) -> tuple[Triple, Triple, bool]:
    """Return mean, standard deviation and whether blue comes first."""
    images = torch.stack([*flat.values(), grey]).double().flatten(2)  # [5 3 pixels]
    black, *colours, middle = images.mean(2)
    answers = (torch.stack(colours) - black).T  # of channel to colour
    scale = answers.max(1).values
    tolerance = RELATIVE * float(scale.abs().max())
    if float((images - images.mean(2, keepdim=True)).abs().max()) > tolerance or float(scale.min()) <= 0:
        raise not_reproducible(
            name, "pixels of flat images that are not flat (padding, or a crop beyond the image)"
        )
    orders = {False: torch.eye(3).double(), True: torch.eye(3).double().flip(1)}
    fits = (b for b, o in orders.items() if (answers - scale[:, None] * o).abs().max() < tolerance)
    bgr = next(fits, None)
    if bgr is None or (black + scale * GREY / 255 - middle).abs().max() > tolerance:
        raise not_reproducible(name, "colours that are not scaled and shifted channel by channel")
    if hints.mean and hints.std:
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (hints.mean, hints.std))
        if (scale * std - 1).abs().max() < RELATIVE and (black + mean / std).abs().max() < 10 * RELATIVE:
            return hints.mean, hints.std, bgr
    mean, std = -black / scale, 1 / scale
    shown = (three(float(f"{x:.{DIGITS}g}") for x in values.tolist()) for values in (mean, std))
    return next(shown), next(shown), bgr


def _checked(name: str, processor: Processor, image: np.ndarray) -> Tensor:
    """Run a processor on a copy of an image and check the shape of what comes out."""
    try:
        pixels = processor(image.copy())
    except Exception as error:  # processors of hundreds of models, on configurations of anyone
        raise not_reproducible(name, summary(error)) from error
    shape = tuple(getattr(pixels, "shape", ()))
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2] or not LEAST_PX <= shape[1] <= MOST_PX:
        raise not_reproducible(name, f"pixels of shape {list(shape)}")
    if not torch.is_floating_point(pixels) or not bool(torch.isfinite(pixels).all()):
        raise not_reproducible(name, f"pixels that are not finite floating point numbers ({pixels.dtype})")
    return pixels


def _flat(*rgb: int) -> np.ndarray:
    return np.broadcast_to(np.array(rgb, dtype=np.uint8), (96, 160, 3)).copy()


def _probes(image_px: int) -> list[np.ndarray]:
    """Return an image to be enlarged and two to be shrunk, wide and high, of waves and edges."""
    px = image_px
    shapes = ((px // 2 + 3, px * 2 // 3), (px * 5 // 4 + 7, px * 7 // 4 + 3), (px * 2 + 1, px + 5))
    return [_image(*shape) for shape in shapes]


def _image(height: int, width: int) -> np.ndarray:
    """Return waves with edges; of little contrast, since libraries clip overshoots at different steps."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    waves = np.stack([np.sin(31 * x + 5 * y), np.sin(23 * y - 9 * x), np.cos(17 * x * y + 11 * y)], axis=-1)
    image = 128 + 50 * waves
    image[(y - 0.5) ** 2 + (x - 0.35) ** 2 < 0.04] = (170, 90, 75)
    image[(abs(y - 0.7) < 0.12) & (abs(x - 0.7) < 0.15)] = (80, 110, 180)
    return image.round().astype(np.uint8)


def three(values: Iterable[float]) -> Triple:
    """Return one number for each of red, green and blue."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def check_side(name: str, side: int) -> None:
    """Raise ConfigError for a side of an input that no vision model has, before an image of it is made."""
    if not LEAST_PX <= side <= MOST_PX:
        raise not_reproducible(name, f"a side of {side} px, not {LEAST_PX} to {MOST_PX}")


def not_reproducible(name: str, got: str) -> ConfigError:
    """Return the error for a model whose input pipeline no `Preprocess` equals."""
    return ConfigError(
        expected=f"an input pipeline of 'auto:{name}' that can be reproduced: a resize to a square, with a "
        "centred crop or without, scale and offset of each channel",
        got=got,
        fix="Choose another model, or write an own encoder for it, see the README.",
    )
