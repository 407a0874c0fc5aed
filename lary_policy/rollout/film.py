"""Tiled videos of a few episodes, success marked on every frame."""

from __future__ import annotations

import io
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from numpy.typing import NDArray

from lary_policy.errors import ShapeError
from lary_policy.paths import atomic_write
from lary_policy.rollout.loop import EpisodeFrames

SUCCESS_RGB = (46, 160, 67)
RUNNING_RGB = (110, 118, 129)
BORDER_PX = 6


def tile_video(film: EpisodeFrames, path: Path, *, tile_px: int = 224, hz: float = 20.0) -> Path:
    """Write the filmed worlds side by side as mp4; a tile's frame turns green while its success holds.

    Args:
        film: Frames collected by `run_episodes`.
        path: The mp4 to write (atomically).
        tile_px: Height and width of one tile (nearest-neighbour scaled: it shows what the encoder sees).
        hz: Control rate of the environment; the video plays in real time.

    Raises:
        ShapeError: Nothing was filmed.
        StoreError: The file cannot be written.
    """
    if not film.frames:
        raise ShapeError(expected="at least one filmed step", got="none", fix="Pass a film to run_episodes.")
    # In memory first: ffmpeg reports a full disk as an error of its own callbacks.
    mp4 = io.BytesIO()
    with imageio.imopen(mp4, "w", plugin="pyav", extension=".mp4") as writer:
        writer.init_video_stream("libx264", fps=round(hz / film.every))
        for frames, success in zip(film.frames, film.success, strict=True):
            tiles = [_tile(f, bool(s), tile_px) for f, s in zip(frames.numpy(), success, strict=True)]
            writer.write_frame(_grid(tiles))
    with atomic_write(path) as temporary:
        temporary.write_bytes(mp4.getvalue())
    return path


def _tile(frame: NDArray[np.uint8], success: bool, tile_px: int) -> NDArray[np.uint8]:
    rows = (np.arange(tile_px) * frame.shape[0]) // tile_px
    tile = frame[rows][:, rows].copy()
    colour = SUCCESS_RGB if success else RUNNING_RGB
    for edge in (np.s_[:BORDER_PX], np.s_[-BORDER_PX:], np.s_[:, :BORDER_PX], np.s_[:, -BORDER_PX:]):
        tile[edge] = colour
    return tile


def _grid(tiles: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    columns = int(np.ceil(np.sqrt(len(tiles))))
    blank = np.zeros_like(tiles[0])
    tiles = tiles + [blank] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows, 0)
