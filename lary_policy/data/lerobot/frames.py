"""Where the images of a LeRobot dataset lie, by the frames' numbers in the whole dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lary_policy.data.lerobot.files import LeRobotEpisode, LeRobotFiles, LeRobotSteps
from lary_policy.errors import DatasetError
from lary_policy.frames import Frame, ParquetFrame, TimedFrame


@dataclass(frozen=True)
class EpisodeFrames:
    """The images of one episode.

    Attributes:
        number: Its index in the dataset.
        first: Number of its first frame in the whole dataset; LeRobot calls it `index`.
        frames: Of each camera the images of all steps in order.
    """

    number: int
    first: int
    frames: Mapping[str, tuple[Frame, ...]]

    def __len__(self) -> int:
        return len(next(iter(self.frames.values())))


def bounds(files: LeRobotFiles) -> tuple[tuple[int, int], ...]:
    """Return the first frame and last frame + 1 of each episode, counted over the whole dataset."""
    found, first = [], 0
    for episode in files.episodes:
        found.append((first, first + episode.length))
        first += episode.length
    return tuple(found)


def episode_frames(
    files: LeRobotFiles, cameras: Sequence[str], episodes: Iterable[int] | None = None
) -> tuple[EpisodeFrames, ...]:
    """Return where the images of episodes lie; no image is decoded.

    Args:
        files: The dataset.
        cameras: Features, named in full.
        episodes: Numbers of the wanted episodes; None for all.

    Raises:
        UnknownNameError: There is no such camera.
        DatasetError: There is no such episode, or its table does not hold the steps that `meta/` states.
    """
    names = [files.camera(camera) for camera in cameras]
    firsts = {e.number: first for e, (first, _) in zip(files.episodes, bounds(files), strict=True)}
    wanted = set(firsts) if episodes is None else set(episodes)
    if not wanted <= set(firsts):
        raise DatasetError(
            expected=f"episodes of {files.root}, which has {len(firsts)}",
            got=f"episode {min(wanted - set(firsts))}",
            fix=f"Choose from 0 to {max(firsts)}.",
        )
    found = []
    for episode, steps in files.steps([e for e in files.episodes if e.number in wanted], []):
        if isinstance(steps, str):
            raise DatasetError(
                expected=f"all steps of episode {episode.number} of {files.root}",
                got=steps,
                fix="Write the dataset anew, or leave the episode out.",
            )
        frames = {
            name: tuple(stored_frame(episode, steps, name, i) for i in range(episode.length))
            for name in names
        }
        found.append(EpisodeFrames(episode.number, firsts[episode.number], frames))
    return tuple(found)


def stored_frame(episode: LeRobotEpisode, steps: LeRobotSteps, camera: str, step: int) -> Frame:
    """Return where the image of a camera at a step of an episode lies: in a video or in the table.

    A frame of a video is found by its time, as LeRobot finds it: the video may have more frames than the
    table has rows.
    """
    if camera in episode.videos:
        path, start_s = episode.videos[camera]
        return TimedFrame(path, start_s + steps.times_s[step])
    return ParquetFrame(episode.table, camera, steps.first_row + step)


@dataclass(frozen=True, eq=False)
class LeRobotMotion:
    """What the robot was told and did in the T steps of an episode, in the layout of the embodiment.

    Attributes:
        steps: The tables' own numbers.
        actions: Recorded actions `[T a]`.
        executed: What was commanded instead where poses were disturbed, `[T a]`.
        poses: Measured poses `[T a]`, or the actions where there are none.
        disturbed: Steps at which they were, bool `[T]`.
    """

    steps: LeRobotSteps
    actions: Tensor
    executed: Tensor
    poses: Tensor
    disturbed: Tensor

    def is_finite(self, chunk: slice) -> bool:
        """Return whether the actions of a chunk, and the pose it starts from, have no NaN or infinity."""
        numbers = (self.actions[chunk], self.executed[chunk], self.poses[chunk.start])
        return all(bool(torch.isfinite(values).all()) for values in numbers)
