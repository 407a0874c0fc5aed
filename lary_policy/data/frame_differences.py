"""How much each frame of a clip differs from the next: 1 - SSIM of small grey images (protocol section 3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lary_policy.data.video import iterate_frames

SIZE_PX = 224
_WINDOW_PX = 7
# Constants of the SSIM paper (Wang et al. 2004) for 8-bit images: (0.01 L)^2 and (0.03 L)^2 with L = 255.
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def frame_differences(path: Path) -> NDArray[np.float64]:
    """Return 1 - SSIM of each frame and the next of a video file, `[T-1]`.

    Raises:
        FrameFormatError: The file is missing or damaged.
    """
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
