"""Videos of chosen episodes side by side, success marked on every frame; they survive an interruption."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from lary_policy.errors import ShapeError, StoreError
from lary_policy.heads.training import content_sha256
from lary_policy.paths import atomic_write, foreign_file, open_regular
from lary_policy.rollout.loop import Shots

SUCCESS_RGB = (46, 160, 67)
RUNNING_RGB = (110, 118, 129)
BORDER_PX = 6


@dataclass(frozen=True)
class Clip:
    """One filmed episode."""

    frames: Tensor  # uint8 `[t, h, w, 3]` of the first camera
    success: Tensor  # bool `[t]`: the task's condition held


class Film:
    """The video of the episodes of some seeds, whichever waves they run in.

    Each episode is kept in a file of its own beside the video until this is written, so that an interrupted
    rollout that goes on shows what an uninterrupted one would have shown.

    Args:
        path: The mp4 to write.
        seeds: Seeds to show, in this order.
        every: Film each n-th control step.
    """

    def __init__(self, path: Path, seeds: Sequence[int], *, every: int = 2) -> None:
        self.path, self.seeds, self._every = path, tuple(seeds), every
        self._folder = path.with_name(f"{path.stem}.clips")

    def missing(self) -> tuple[int, ...]:
        """Return the seeds that must still be run before the video can be written; none once it is."""
        if self.path.exists():
            return ()
        return tuple(seed for seed in self.seeds if not self._clip(seed).exists())

    def restart(self) -> None:
        """Delete video and clips of an earlier rollout at the same place."""
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def shoot(self, batch: Sequence[int]) -> Shots | None:
        """Return where to collect the frames of a wave of seeds, or None when it has none to show."""
        wanted = self.missing()
        worlds = tuple(world for world, seed in enumerate(batch) if seed in wanted)
        return Shots(worlds, self._every) if worlds else None

    def keep(self, batch: Sequence[int], filmed: Shots) -> None:
        """Save what was collected of a wave of seeds.

        Raises:
            StoreError: The disk is full or not writable.
        """
        for index, world in enumerate(filmed.worlds):
            frames = torch.stack([frame[index] for frame in filmed.frames])
            success = torch.stack([flag[index] for flag in filmed.success])
            with atomic_write(self._clip(batch[world])) as temporary:
                tensors = {"frames": frames, "success": success}
                temporary.write_bytes(save(tensors, {"sha256": content_sha256(tensors, {})}))

    def write(self, *, tile_px: int = 224, hz: float = 20.0) -> Path:
        """Write the video, unless it is there, and delete the clips that it was made of.

        Raises:
            ShapeError: An episode was not filmed.
            StoreError: A clip is damaged, or the video cannot be written.
        """
        if missing := self.missing():
            raise ShapeError(
                expected=f"films of the seeds {', '.join(map(str, self.seeds))}",
                got=f"none of {', '.join(map(str, missing))}",
                fix="Run these seeds with this film.",
            )
        if not self.path.exists():
            tile_video(
                [self._read(seed) for seed in self.seeds], self.path, tile_px=tile_px, hz=hz / self._every
            )
        shutil.rmtree(self._folder, ignore_errors=True)
        return self.path

    def _clip(self, seed: int) -> Path:
        return self._folder / f"{seed}.safetensors"

    def _read(self, seed: int) -> Clip:
        path, fix = self._clip(seed), "Delete the file; the episode is run again."
        with (
            foreign_file("a filmed episode", path, fix, error=StoreError),
            open_regular(path),
            safe_open(path, framework="pt") as file,
        ):
            tensors = {name: file.get_tensor(name) for name in ("frames", "success")}
            if (file.metadata() or {}).get("sha256") != content_sha256(tensors, {}):
                raise ValueError("its content is not what was written")
            return Clip(**tensors)


def tile_video(clips: Sequence[Clip], path: Path, *, tile_px: int = 224, hz: float = 10.0) -> Path:
    """Write clips side by side as mp4; a tile turns green while its success holds, and stays as it ended.

    Args:
        clips: At least one; shorter ones show their last frame until the longest has ended.
        path: The mp4 to write (atomically).
        tile_px: Height and width of one tile (nearest-neighbour scaled: it shows what the encoder sees).
        hz: Frames a second.

    Raises:
        ShapeError: There are no clips, or one has no frames.
        StoreError: The file cannot be written.
    """
    if not clips or not all(len(clip.frames) for clip in clips):
        raise ShapeError(expected="at least one filmed step", got="none", fix="Pass a film to run_episodes.")
    # In memory first: ffmpeg reports a full disk as an error of its own callbacks.
    mp4 = io.BytesIO()
    with imageio.imopen(mp4, "w", plugin="pyav", extension=".mp4") as writer:
        writer.init_video_stream("libx264", fps=round(hz))
        for step in range(max(len(clip.frames) for clip in clips)):
            shown = [(clip, min(step, len(clip.frames) - 1)) for clip in clips]
            tiles = [_tile(clip.frames[i].numpy(), bool(clip.success[i]), tile_px) for clip, i in shown]
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
