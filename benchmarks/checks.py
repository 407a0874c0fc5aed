"""What must hold before a figure of a simulation is printed."""

from __future__ import annotations

import torch
from torch import Tensor


def require_pictures(frames: Tensor, name: str) -> None:
    """Leave the benchmark unless every frame, uint8 `[n h w 3]`, shows something and the frames differ.

    Raises:
        SystemExit: A frame is of one colour, or all of several frames are the same.
    """
    levels = frames.flatten(1).float()
    if bool((levels.std(1) < 1.0).any()):
        raise SystemExit(f"{name}: a frame is of one colour, no figure is printed")
    if len(frames) > 1 and bool((frames == frames[:1]).all()):
        raise SystemExit(f"{name}: all worlds look the same, no figure is printed")


def require_motion(before: Tensor, after: Tensor, name: str) -> None:
    """Leave the benchmark unless a state `[w n]` is finite and every world moved.

    Raises:
        SystemExit: A state is not finite, or a world stands still.
    """
    if not bool(torch.isfinite(after).all()):
        raise SystemExit(f"{name}: a state is not finite, no figure is printed")
    if bool((before == after).all(-1).any()):
        raise SystemExit(f"{name}: a world stands still, no figure is printed")
