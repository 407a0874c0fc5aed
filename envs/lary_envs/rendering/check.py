"""Frames of a GPU are compared with the CPU's tracer before they are trusted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import imageio.v3 as iio
from torch import Tensor
from torch.nn.functional import avg_pool2d

from lary_policy.errors import DeviceError

# Of a frame, in steps of 255. Edges that fast arithmetic moves by a pixel change a square of 8 by an eighth
# of their contrast, 20 at most; a missing shape of a square's size changes it by 60 and more.
MEAN_LIMIT, SQUARE_LIMIT = 2.0, 40.0
_SQUARES = 14  # a side: 8 px of 112
_RENDERS = (1, 11)  # compared after the reset, and after ten steps
_WORLDS = 4


def require_equal_frames(
    frames: Tensor, expected: Tensor, *, cameras: Sequence[str], worlds: Sequence[int], device: str
) -> None:
    """Compare frames `[n c h w 3]`, uint8, of a device with those of the CPU's tracer.

    Args:
        frames: Of the device.
        expected: Of the CPU.
        cameras: Names of the c cameras.
        worlds: Numbers of the n worlds.
        device: What is compared, for the message.

    Raises:
        DeviceError: A frame differs by more than 2 of 255 on average, or a square of a fourteenth of its side
            by more than 40. The message names camera and world; both pictures are written.
    """
    difference = (frames.cpu().float() - expected.float()).abs().mean(-1)
    side = max(1, frames.shape[2] // _SQUARES)
    squares = (
        avg_pool2d(difference.flatten(0, 1)[:, None], side).flatten(1).amax(1).view(difference.shape[:2])
    )
    wrong = (difference.mean((-1, -2)) > MEAN_LIMIT) | (squares > SQUARE_LIMIT)
    if not wrong.any():
        return
    world, camera = (int(i) for i in wrong.nonzero()[0])
    folder = Path(tempfile.mkdtemp(prefix="lary-frames-"))
    pictures = {"device": frames[world, camera].cpu(), "cpu": expected[world, camera]}
    for name, picture in pictures.items():
        iio.imwrite(folder / f"{name}.png", picture.numpy())
    raise DeviceError(
        expected=f"frames of {device} within {MEAN_LIMIT:.0f} of 255 of the CPU's, no region missing",
        got=f"camera {cameras[camera]} of world {worlds[world]} differs by "
        f"{difference[world, camera].mean():.1f}, by {squares[world, camera]:.0f} in a square of {side} px; "
        f"{int(wrong.sum())} of {wrong.numel()} frames are wrong; both as pictures: {folder}",
        fix="Pass device=cpu (or render_device='cpu'), and report it with both pictures.",
    )


class FrameCheck:
    """Decides which renders of a device are compared, and compares them.

    Args:
        trace: Returns the CPU's frames `[n c h w 3]` of worlds that look like the given fields `[n ...]`.
        cameras: Names of the cameras c.
        device: Name of the device.
    """

    def __init__(self, trace: Callable[[Mapping[str, Tensor]], Tensor], cameras: Sequence[str], device: str):
        self._trace, self._cameras, self._device = trace, cameras, device
        self._rendered, self._doubted = 0, 0

    def doubt(self) -> None:
        """Have the next frames compared too, where that has not happened twice: worlds have jumped."""
        if self._doubted < 2:
            self._doubted += 1
            self._rendered = 0

    def __call__(
        self, frames: Tensor, seen: Callable[[Tensor], Mapping[str, Tensor]], worlds: Tensor
    ) -> None:
        """Compare the first few of n new frames, if it is their turn.

        Args:
            frames: `[n c h w 3]`.
            seen: Returns the fields of worlds.
            worlds: Their numbers `[n]`.

        Raises:
            DeviceError: They differ.
        """
        self._rendered += 1
        if self._rendered not in _RENDERS or not len(worlds):
            return
        few = worlds[:_WORLDS]
        expected = self._trace({name: value.cpu() for name, value in seen(few).items()})
        require_equal_frames(
            frames[: len(few)], expected, cameras=self._cameras, worlds=few.tolist(), device=self._device
        )
