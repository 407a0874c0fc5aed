"""From uint8 frames of any size to what a model wants: check, resize, crop, normalise."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lary_policy.errors import ConfigError, FrameFormatError

LOBES = 3  # support of the kernel in output pixels, Pillow's LANCZOS3


def lanczos_resize(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resize like `PIL.Image.resize(..., Image.Resampling.LANCZOS)`: across, then down, rounding after each.

    Grey levels are float32 0..255 [b c h w]; they come out whole, with `shape` (height, width).
    """
    for axis, size in ((-1, shape[1]), (-2, shape[0])):
        if images.shape[axis] != size:
            kernel = _kernel(images.shape[axis], size, images.device)
            images = (images.transpose(axis, -1) @ kernel).transpose(axis, -1)
            images = images.round_().clamp_(0, 255)
    return images


@functools.lru_cache(maxsize=64)
def _kernel(size_in: int, size_out: int, device: torch.device) -> Tensor:
    """Return the weights [size_in size_out] of every input pixel in every output pixel; kept on `device`."""
    exact: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    scale = size_in / size_out
    stretch = max(scale, 1.0)  # shrinking widens the kernel
    centres = (torch.arange(size_out, **exact) + 0.5) * scale
    first = (centres - LOBES * stretch + 0.5).floor().clamp(min=0)
    last = (centres + LOBES * stretch + 0.5).floor().clamp(max=size_in)
    pixels = torch.arange(size_in, **exact)[:, None]
    distance = (pixels + 0.5 - centres) / stretch
    weights = torch.special.sinc(distance) * torch.special.sinc(distance / LOBES)
    weights = weights.where((distance.abs() < LOBES) & (pixels >= first) & (pixels < last), 0.0)
    return (weights / weights.sum(0)).to(device, torch.float32)


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)  # as mean and as standard deviation: [0, 1] becomes [-1, 1]
INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "nearest")


@dataclass(frozen=True)
class Preprocess:
    """How frames become model input: squashed to a square, or resized by the short side and cropped."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)  # per-channel mean on the [0, 1] scale
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)  # per-channel standard deviation on the [0, 1] scale
    # `bicubic`, `bilinear`, `nearest` or `lanczos` (Pillow's, always antialiased)
    interpolation: str = "bicubic"
    # Whether the kernel widens when shrinking, as in Pillow; OpenCV does not (`bicubic` without antialias is
    # its INTER_CUBIC, both use a = -0.75)
    antialias: bool = True
    # (resize_short_px, crop_px): the short side is resized to `resize_short_px` and the centre cropped to
    # `crop_px`, both scaled alike where the input size is not `crop_px`. None squashes.
    crop: tuple[int, int] | None = None
    # With `crop`, whether both sides are resized to `resize_short_px`, whatever the image's shape
    squash: bool = False
    # Whether a crop with an odd margin cuts less at the top and left, as transformers' processors do;
    # torchvision rounds half a pixel to the even number
    floor: bool = False
    # Whether the model wants blue first; mean and standard deviation then are of blue, green, red
    bgr: bool = False
    # Pipeline of samples of more than two frames, where the reference reads those otherwise
    video: Preprocess | None = None

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS or (self.crop and self.crop[0] < self.crop[1]):
            raise ConfigError(
                expected=f"one of {', '.join(INTERPOLATIONS)} and a crop no larger than the resized image",
                got=f"interpolation {self.interpolation}, crop {self.crop}",
                fix="Correct the Preprocess.",
            )

    def facts(self) -> dict[str, Any]:
        """Return what decides the pixels, for fingerprints: later fields only where they are set."""
        later = {"squash": False, "floor": False, "bgr": False, "video": None}
        facts = {field.name: getattr(self, field.name) for field in fields(self)}
        facts["video"] = self.video and self.video.facts()
        return {name: value for name, value in facts.items() if name not in later or value != later[name]}


def check_frames(frames: Tensor) -> None:
    """Refuse anything but non-empty uint8 RGB frames [b t h w 3].

    Raises:
        FrameFormatError: Wrong type, dtype, rank, channel count or an empty dimension.
    """
    expected = "frames as a torch.uint8 tensor [b t h w 3], RGB, no dimension empty"
    if not isinstance(frames, Tensor):
        raise FrameFormatError(
            expected=expected, got=type(frames).__name__, fix="Convert with torch.from_numpy(array)."
        )
    got = f"{str(frames.dtype).removeprefix('torch.')} {list(frames.shape)}"
    if frames.dtype != torch.uint8:
        fix = "Pass the camera's 0..255 values unscaled; the encoder alone normalises."
    elif frames.ndim != 5:
        fix = "Add the missing dimensions, e.g. frames[:, None] for one frame a sample."
    elif frames.shape[-1] != 3:
        fix = "Put channels last, drop alpha, repeat grey three times: frames.movedim(2, -1)[..., :3]."
    elif 0 in frames.shape:
        fix = "Leave empty batches and empty images out."
    else:
        return
    raise FrameFormatError(expected=expected, got=got, fix=fix)


def prepare_frames(
    frames: Tensor, image_px: int, preprocess: Preprocess, *, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Resize, crop and normalise frames uint8 [b t h w 3] to model input [b*t 3 image_px image_px].

    Resizing rounds to whole grey levels, as image libraries do on uint8 images, so that it makes no
    difference whether a frame was resized here or before it was stored. Arithmetic is in float32.

    Raises:
        FrameFormatError: See `check_frames`.
    """
    check_frames(frames)
    if device.type == "cuda" and frames.device.type == "cpu":
        frames = frames.pin_memory()  # twice as fast as from pageable memory, the copy to it included
    pixels = frames.to(device, non_blocking=True).flatten(0, 1).permute(0, 3, 1, 2)
    images = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    images = _resize(images, _resized_shape(images, image_px, preprocess), preprocess)
    images = _centre_crop(images, image_px, math.floor if preprocess.floor else round)
    images = images.flip(1) if preprocess.bgr else images
    mean, std = _levels(preprocess.mean, device), _levels(preprocess.std, device)
    return images.sub_(mean).div_(std).to(dtype)


@functools.lru_cache(maxsize=64)
def _levels(fractions: tuple[float, float, float], device: torch.device) -> Tensor:
    """Return fractions as grey levels [3 1 1]; kept, because copying them to a GPU waits for all its work."""
    return torch.tensor(fractions, device=device).view(3, 1, 1) * 255


def _resized_shape(images: Tensor, image_px: int, preprocess: Preprocess) -> tuple[int, int]:
    """Return (height, width) before the crop; the long side is rounded down, as in torchvision."""
    height, width = images.shape[-2:]
    if preprocess.crop is None:
        return image_px, image_px
    short_px = round(preprocess.crop[0] * image_px / preprocess.crop[1])
    if preprocess.squash:
        return short_px, short_px
    short = min(height, width)
    return height * short_px // short, width * short_px // short


def _resize(images: Tensor, shape: tuple[int, int], preprocess: Preprocess) -> Tensor:
    if images.shape[-2:] == shape:
        return images
    if preprocess.interpolation == "lanczos":
        return lanczos_resize(images, shape)
    smooth = preprocess.interpolation != "nearest"
    images = F.interpolate(
        images,
        size=shape,
        mode=preprocess.interpolation,
        align_corners=False if smooth else None,
        antialias=preprocess.antialias and smooth,
    )
    return images.round_().clamp_(0, 255)


def _centre_crop(images: Tensor, image_px: int, whole: Callable[[float], int]) -> Tensor:
    top, left = (whole((side - image_px) / 2) for side in images.shape[-2:])
    return images[..., top : top + image_px, left : left + image_px].contiguous()
