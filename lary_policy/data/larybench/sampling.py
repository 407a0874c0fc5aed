"""Which frames of a clip are seen: MGSampler and UniformSampler (protocol section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lary_policy.data.larybench.sets import CLIP_FRAMES
from lary_policy.errors import DatasetError, ShapeError
from lary_policy.frames import iterate_frames

Method = Literal["motion", "uniform_short", "uniform_static", "uniform_invalid"]
SHORT_FACTOR = 2  # clips of at most this many times the wanted frames are sampled evenly (protocol section 3)


@dataclass(frozen=True)
class FrameSelection:
    """The frames of one clip.

    Attributes:
        indices: Ascending, as many as wanted; the last is repeated where there are not enough.
        method: `motion` (MGSampler), or why frames are spaced evenly instead: `uniform_short` (a short clip),
            `uniform_static` (nothing moves), `uniform_invalid` (a difference is negative or not a number).
    """

    indices: tuple[int, ...]
    method: Method


def is_short(frames: int, num_frames: int = CLIP_FRAMES) -> bool:
    """Tell whether a clip is too short for MGSampler."""
    return frames <= SHORT_FACTOR * num_frames


def motion_indices(differences: Sequence[float] | NDArray[np.float64], num_frames: int) -> list[int]:
    """Return MGSampler's frames in test mode, exactly as the reference computes them, faults included.

    The cumulative square root of the differences `[T-1]` of frames from the next, scaled to 1, is cut into
    equal parts; of each part's middle the nearest frame is taken. Frame 0 is never among them. Differences of
    a static clip and negative ones turn all sums into NaN, and every index into 1.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.power(np.asarray(differences, dtype=np.float64), 0.5)
        cumulative = np.cumsum(weights / np.sum(weights))
    targets = [1 / (num_frames * 2) + i / num_frames for i in range(num_frames)]
    return [int(np.abs(cumulative - target).argmin()) + 1 for target in targets]


def uniform_indices(frames: int, num_frames: int) -> list[int]:
    """Return UniformSampler's frames: multiples of the interval frames / num_frames, rounded down."""
    interval = frames / num_frames
    return [int(interval * i) for i in range(num_frames)]


def pad_indices(indices: Sequence[int], num_frames: int) -> tuple[int, ...]:
    """Sort the indices, each once, and repeat the last one until there are `num_frames`.

    DatasetError where only frame 0 is left: the reference drops such clips.
    """
    unique = sorted(set(indices))
    if not unique or unique == [0]:
        raise DatasetError(
            expected="more than the first frame of a clip",
            got=f"frames {unique}",
            fix="Leave the clip out: it has a single frame, or none that can be read.",
        )
    return tuple((unique + [unique[-1]] * num_frames)[:num_frames])


def select_frames(
    differences: Sequence[float] | NDArray[np.float64] | None,
    frames: int,
    *,
    num_frames: int = CLIP_FRAMES,
    protocol: str = "native",
) -> FrameSelection:
    """Choose the frames of a clip.

    Args:
        differences: Difference of each frame from the next, `[T-1]`; None for a short clip.
        frames: Frames of the clip, used where it is sampled evenly.
        num_frames: Frames wanted.
        protocol: `lary` lets static clips and negative differences collapse to frame 1, as the reference
            does; `native` samples them evenly and says so.

    Raises:
        DatasetError: Only frame 0 would be left.
        ShapeError: Differences do not fit the number of frames.
    """
    if differences is None:
        return FrameSelection(pad_indices(uniform_indices(frames, num_frames), num_frames), "uniform_short")
    if len(differences) == 0 or (protocol == "native" and len(differences) != frames - 1):
        raise ShapeError(
            expected=f"{frames - 1} differences of {frames} frames",
            got=str(len(differences)),
            fix="Compute them from the same file.",
        )
    fault = _fault(np.asarray(differences, dtype=np.float64))
    if fault is not None and protocol == "native":
        return FrameSelection(pad_indices(uniform_indices(frames, num_frames), num_frames), fault)
    return FrameSelection(pad_indices(motion_indices(differences, num_frames), num_frames), "motion")


def _fault(differences: NDArray[np.float64]) -> Method | None:
    if not np.isfinite(differences).all() or differences.min() < 0:
        return "uniform_invalid"
    return "uniform_static" if math.isclose(differences.sum(), 0.0, abs_tol=1e-12) else None


SIZE_PX = 224
_WINDOW_PX = 7
# Constants of the SSIM paper (Wang et al. 2004) for 8-bit images: (0.01 L)^2 and (0.03 L)^2 with L = 255.
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def frame_differences(path: Path) -> NDArray[np.float64]:
    """Return 1 - SSIM of each frame and the next of a video file, `[T-1]`; FrameFormatError if damaged."""
    differences = []
    before: NDArray[np.float64] | None = None
    for frame in iterate_frames(path):
        small = small_grey(frame.numpy())
        if before is not None:
            differences.append(1.0 - similarity(before, small))
        before = small
    return np.array(differences, dtype=np.float64)


def small_grey(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return an RGB image `[h, w, 3]` as grey levels 0..255 of 224 x 224 pixels, rounded as OpenCV does."""
    import cv2

    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (SIZE_PX, SIZE_PX)).astype(np.float64)


def similarity(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the mean structural similarity of two grey images (levels 0..255), at most 1.

    A uniform 7 x 7 window and sample covariances, over the pixels whose window lies inside the image, as
    scikit-image's default.
    """
    count = _WINDOW_PX**2
    mean_1, mean_2 = _window_means(first), _window_means(second)
    unbiased = count / (count - 1)
    variance_1 = unbiased * (_window_means(first * first) - mean_1 * mean_1)
    variance_2 = unbiased * (_window_means(second * second) - mean_2 * mean_2)
    covariance = unbiased * (_window_means(first * second) - mean_1 * mean_2)
    above = (2 * mean_1 * mean_2 + _C1) * (2 * covariance + _C2)
    below = (mean_1**2 + mean_2**2 + _C1) * (variance_1 + variance_2 + _C2)
    return float((above / below).mean())


def _window_means(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each 7 x 7 window that lies inside the image."""
    import cv2

    edge = _WINDOW_PX // 2
    means = cv2.blur(image, (_WINDOW_PX, _WINDOW_PX))
    return np.asarray(means[edge:-edge, edge:-edge], dtype=np.float64)
