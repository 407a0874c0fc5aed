"""MuJoCo's own renderer through OpenGL: what our ray tracer is compared with where a machine has OpenGL.

MuJoCo chooses its platform when it is imported, so import this module first.
"""

from __future__ import annotations

import ctypes.util
import os
import sys
from typing import Any

if ctypes.util.find_library("EGL"):  # without it, importing MuJoCo for EGL fails
    os.environ.setdefault("MUJOCO_GL", "egl")


def make_renderer(model: Any, image_px: int) -> Any | None:
    """Return a `mujoco.Renderer` with MuJoCo's default quality and shadows, or None without OpenGL.

    None is said on stderr.
    """
    import mujoco

    size = model.vis.global_
    size.offwidth, size.offheight = max(size.offwidth, image_px), max(size.offheight, image_px)
    try:
        return mujoco.Renderer(model, image_px, image_px)
    except Exception as error:  # bindings, drivers and MuJoCo each have error classes of their own
        print(f"no OpenGL, so no mujoco.Renderer to compare with: {error}", file=sys.stderr)
        return None
