"""Images as LeRobot hands them to policies, back to the uint8 frames that encoders take."""

from __future__ import annotations

import torch
from torch import Tensor

from lary_policy.errors import FrameFormatError

EXPECTED = "images as floats in [0, 1], [b 3 h w] or [b t 3 h w]"
WHITE = 255
STILL = 4  # dimensions of images [b 3 h w] without a history
NORMALISED = (
    "They seem normalised already: set normalization_mapping VISUAL to IDENTITY; the encoder does it."
)
UNDIVIDED = "LeRobot divides camera images by 255 before the policy sees them; do so once."


def to_frames(images: Tensor, *, check_values: bool = True) -> Tensor:
    """Turn LeRobot's images into frames; what was uint8 before LeRobot divided it comes back exactly.

    Args:
        images: Floats in [0, 1], `[b 3 h w]` or `[b t 3 h w]`.
        check_values: Whether to look at the values, for which a GPU has to wait.

    Returns:
        uint8 RGB frames `[b t h w 3]` on the same device; t is 1 for images without time.

    Raises:
        FrameFormatError: Wrong dtype, axes or range.
    """
    _check_axes(images)
    levels = (images.to(torch.float32) * WHITE).round()
    if check_values:
        low, high = (float(x) for x in levels.detach().aminmax())
        if not (low >= 0 and high <= WHITE):  # NaN is refused, too
            got = f"values from {low / WHITE:.4g} to {high / WHITE:.4g}"
            raise FrameFormatError(expected=EXPECTED, got=got, fix=NORMALISED if low < 0 else UNDIVIDED)
    clips = levels if images.ndim == 5 else levels[:, None]
    return clips.to(torch.uint8).movedim(2, -1)


def _check_axes(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise FrameFormatError(expected=EXPECTED, got=type(images).__name__, fix="Pass a tensor.")
    got = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
    if not images.is_floating_point():
        fix = "LeRobot's training loop and its observation step divide uint8 images by 255; do so before."
    elif images.ndim not in (4, 5) or 0 in images.shape:
        fix = "Add the batch axis; leave empty batches out."
    elif images.shape[-3] == 3:
        return
    elif images.shape[-1] == 3:
        fix = "Channels are last; LeRobot puts them first: images.movedim(-1, -3)."
    else:
        fix = "Give RGB: drop alpha, repeat grey three times."
    raise FrameFormatError(expected=EXPECTED, got=got, fix=fix)
