"""Videos of chosen episodes side by side, success marked on every frame; they survive an interruption."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from lary_policy.console import OnProgress
from lary_policy.errors import ShapeError, StoreError
from lary_policy.heads import write_tensors
from lary_policy.heads.training import content_sha256
from lary_policy.paths import atomic_write, foreign_file, open_regular
from lary_policy.rollout.world import ClosableWorld
from lary_policy.types import EpisodeResult

FILMED = 6  # episodes of a film, three by two
FILM_PX = 224
FILM_HZ = 10  # least frames a second of a film
FILM_STEPS = 700  # of all shown episodes: a core traces 350 frames of 20 Hz in 5 s, 175 of MetaWorld in 6 s
HALF_SPEED_HZ = 40.0  # faster robots are through in a second or two: their films run at half speed
SUCCESS_RGB = (46, 160, 67)
RUNNING_RGB = (110, 118, 129)
BORDER_PX = 6
BLANK = 255  # of a tile without an episode, as the page around it


@dataclass(frozen=True)
class Clip:
    """One filmed episode."""

    frames: Tensor  # uint8 `[t, h, w, 3]`
    success: Tensor  # bool `[t]`: the task's condition held


class Film:
    """The video of a few episodes of both outcomes, filmed when all have ended.

    Which episodes are worth showing is known at the end only, and what a robot sees is too small to look at.
    So the commands of every episode are kept, each in a file of its own beside the video, and those of the
    chosen ones are executed again before a larger camera. An interrupted rollout that goes on shows what an
    uninterrupted one would have shown.

    Args:
        path: The mp4 to write.
        every: Film each n-th control step; None films at least ten a second, as large frames take long to
            trace, at `film_speed`.
    """

    def __init__(self, path: Path, *, every: int | None = None) -> None:
        self.path, self._every = path, every
        self._folder = path.with_name(f"{path.stem}.commands")

    def missing(self, seeds: Sequence[int]) -> tuple[int, ...]:
        """Return the seeds that must still be run before the video can be shot; none once it is."""
        if self.path.exists():
            return ()
        return tuple(seed for seed in seeds if not self._file(seed).exists())

    def restart(self) -> None:
        """Delete video and commands of an earlier rollout at the same place."""
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def keep(self, batch: Sequence[int], commands: Tensor) -> None:
        """Save what the worlds of a wave of seeds executed, `[t w u]`.

        Raises:
            StoreError: The disk is full or not writable.
        """
        for seed, of_world in zip(batch, commands.unbind(1), strict=False):
            tensors = {"commands": of_world.contiguous()}
            write_tensors(self._file(seed), tensors, {"sha256": content_sha256(tensors, {})})

    def shoot(
        self,
        episodes: Sequence[EpisodeResult],
        open_world: Callable[[int], ClosableWorld],
        on_progress: OnProgress | None = None,
    ) -> tuple[int, ...]:
        """Write the video, unless it is there, and delete the commands.

        Args:
            episodes: Of the rollout, all with kept commands.
            open_world: Opens that many worlds as those of the rollout, whose first camera films.
            on_progress: Called with (control steps done, of the longest episode).

        Returns:
            The seeds of the episodes it shows, successes first. Physics of a GPU may repeat an episode with
            another end, which is then left out.

        Raises:
            StoreError: Kept commands are damaged, or the video cannot be written.
        """
        chosen = choose_episodes(episodes)
        if not self.path.exists() and chosen:
            world = open_world(len(chosen))
            speed = film_speed(world.control_hz)
            every = self._every or max(1, int(speed * world.control_hz // FILM_HZ))
            try:
                clips, succeeded = self._replay(world, chosen, every, on_progress)
            finally:
                world.close()
            same = [now == then.success for now, then in zip(succeeded, chosen, strict=True)]
            chosen, clips = list(compress(chosen, same)), list(compress(clips, same))
            if clips:
                tile_video(clips, self.path, hz=speed * world.control_hz / every)
        shutil.rmtree(self._folder, ignore_errors=True)
        return tuple(episode.seed for episode in chosen)

    def _replay(
        self,
        world: ClosableWorld,
        episodes: Sequence[EpisodeResult],
        every: int,
        on_progress: OnProgress | None,
    ) -> tuple[list[Clip], list[bool]]:
        """Execute the episodes again; return their clips and which succeeded."""
        commands = [self._read(episode.seed)[: episode.steps] for episode in episodes]
        frames: list[list[Tensor]] = [[] for _ in episodes]
        success: list[list[bool]] = [[] for _ in episodes]
        world.reset([episode.seed for episode in episodes])
        held, succeeded = [False] * len(episodes), [False] * len(episodes)
        longest = max(map(len, commands))
        for step in range(longest + 1):
            # The last state of each is shown too: it may be the first that succeeds.
            shown = [
                place for place, own in enumerate(commands)
                if step == len(own) or (step < len(own) and step % every == 0)
            ]  # fmt: skip
            for place, image in zip(shown, world.frames(shown)[:, 0].cpu() if shown else (), strict=True):
                frames[place].append(image.clone())
                success[place].append(held[place])
            if on_progress is not None:
                on_progress(step, longest)
            if step < longest:
                now = torch.stack([own[min(step, len(own) - 1)] for own in commands])
                world.step(now.to(world.device), validate=False)
                held = world.success().tolist()
                going = [step < len(own) for own in commands]
                succeeded = [s or (h and g) for s, h, g in zip(succeeded, held, going, strict=True)]
        clips = [Clip(torch.stack(f), torch.tensor(s)) for f, s in zip(frames, success, strict=True)]
        return clips, succeeded

    def _file(self, seed: int) -> Path:
        return self._folder / f"{seed}.safetensors"

    def _read(self, seed: int) -> Tensor:
        path, fix = self._file(seed), "Delete the file; the episode is run again."
        with (
            foreign_file("commands of an episode", path, fix, error=StoreError),
            open_regular(path),
            safe_open(path, framework="pt") as file,
        ):
            commands: Tensor = file.get_tensor("commands")
            if (file.metadata() or {}).get("sha256") != content_sha256({"commands": commands}, {}):
                raise ValueError("its content is not what was written")
            return commands


def film_speed(control_hz: float) -> float:
    """Return how fast a film of a robot plays: 1 is real time."""
    return 0.5 if control_hz > HALF_SPEED_HZ else 1.0


def choose_episodes(
    episodes: Sequence[EpisodeResult], count: int = FILMED, steps: int = FILM_STEPS
) -> list[EpisodeResult]:
    """Return the first few episodes that moved: successes, which come first, and as many failures at most.

    Where all ended alike, half as many show it. The last of the longer kind is left out while all together
    have more control steps than `steps`, or cannot be tiled without a gap.
    """
    moved = [episode for episode in episodes if episode.steps]
    kinds = [[e for e in moved if e.success is kind][: count // 2] for kind in (True, False)]
    while True:
        lengths = [sum(e.steps for e in kind) for kind in kinds]
        shown = sum(map(len, kinds))
        if shown <= 2 or (sum(lengths) <= steps and shown != 5):
            return [episode for kind in kinds for episode in kind]
        longer = max((kind for kind in kinds if len(kind) > 1), key=lambda kind: sum(e.steps for e in kind))
        longer.pop()


def tile_video(clips: Sequence[Clip], path: Path, *, tile_px: int = FILM_PX, hz: float = 10.0) -> Path:
    """Write clips side by side as mp4; a tile turns green while its success holds, and stays as it ended.

    Args:
        clips: At least one; shorter ones show their last frame until the longest has ended.
        path: The mp4 to write (atomically).
        tile_px: Height and width of one tile (nearest-neighbour scaled).
        hz: Frames a second.

    Raises:
        ShapeError: There are no clips, or one has no frames.
        StoreError: The file cannot be written.
    """
    if not clips or not all(len(clip.frames) for clip in clips):
        raise ShapeError(expected="at least one filmed step", got="none", fix="Film an episode first.")
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
    columns = 2 if len(tiles) == 4 else min(3, len(tiles))  # 1 to 4 and 6 leave no gap
    blank = np.full_like(tiles[0], BLANK)
    tiles = tiles + [blank] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows, 0)
