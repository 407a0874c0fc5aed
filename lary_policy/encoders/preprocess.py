"""From uint8 frames of any size to what a model wants: check, resize, normalise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lary_policy.errors import FrameFormatError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """How frames become model input; frames are always squashed to a square, never cropped.

    Attributes:
        mean: Per-channel mean on the [0, 1] scale.
        std: Per-channel standard deviation on the [0, 1] scale.
        interpolation: `bicubic` or `bilinear`.
        antialias: Whether the kernel widens when shrinking, as in Pillow; OpenCV does not.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: str = "bicubic"
    antialias: bool = True


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
    """Resize and normalise frames.

    Resizing rounds to whole grey levels, as image libraries do on uint8 images, so that it makes no
    difference whether a frame was resized here or before it was stored.

    Args:
        frames: uint8 [b t h w 3].
        image_px: Side of the output.
        preprocess: The pipeline.
        device: Device of the output.
        dtype: Dtype of the output; arithmetic is in float32.

    Returns:
        Model input [b*t 3 image_px image_px].

    Raises:
        FrameFormatError: See `check_frames`.
    """
    check_frames(frames)
    pixels = frames.to(device, non_blocking=True).flatten(0, 1).permute(0, 3, 1, 2)
    images = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    if images.shape[-2:] != (image_px, image_px):
        images = F.interpolate(
            images,
            size=(image_px, image_px),
            mode=preprocess.interpolation,
            align_corners=False,
            antialias=preprocess.antialias,
        )
        images = images.round_().clamp_(0, 255)
    mean = torch.tensor(preprocess.mean, device=device).view(3, 1, 1) * 255
    std = torch.tensor(preprocess.std, device=device).view(3, 1, 1) * 255
    return images.sub_(mean).div_(std).to(dtype)
