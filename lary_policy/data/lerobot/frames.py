"""Where the images of a LeRobot dataset lie, by the frames' numbers in the whole dataset."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lary_policy.data.clips import ClipRow, ClipTable
from lary_policy.data.larybench import CLIP_FRAMES, pad_indices, uniform_indices
from lary_policy.data.lerobot.files import INDEX, INFO, LeRobotEpisode, LeRobotFiles, LeRobotSteps, short_name
from lary_policy.errors import DatasetError, LaryPolicyError
from lary_policy.frames import Frame, ParquetFrame, TimedFrame, file_digest
from lary_policy.types import Quarantined


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
    ends = list(itertools.accumulate(episode.length for episode in files.episodes))
    return tuple(zip([0, *ends[:-1]], ends, strict=False))


def episode_frames(
    files: LeRobotFiles, cameras: Sequence[str], episodes: Iterable[int] | None = None
) -> tuple[EpisodeFrames, ...]:
    """Return where the images of some cameras and episodes (None for all) lie; no image is decoded.

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
        first = firsts[episode.number]
        if isinstance(steps, str) or steps.first_index != first:
            raise DatasetError(
                expected=f"all steps of episode {episode.number} of {files.root}, numbered from {first} on",
                got=steps if isinstance(steps, str) else f"other numbers in {INDEX} of {episode.table.name}",
                fix="Write the dataset anew, or leave the episode out.",
            )
        frames = {
            name: tuple(stored_frame(episode, steps, name, i) for i in range(episode.length))
            for name in names
        }
        found.append(EpisodeFrames(episode.number, first, frames))
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


def lerobot_clips(
    files: LeRobotFiles, camera: str, episodes: Sequence[LeRobotEpisode], *, clip_s: float | None
) -> ClipTable:
    """Cut episodes into clips of which `CLIP_FRAMES` evenly spaced frames are seen; no frame is decoded.

    A clip lasts `clip_s` seconds (what is left at the end of an episode is not used), or with None the whole
    episode. DatasetError where there is no usable clip.
    """
    rows: list[ClipRow] = []
    aside: list[Quarantined] = []
    for episode, steps in files.steps(episodes, []):
        name = f"episode {episode.number}"
        if isinstance(steps, str):
            aside.append(Quarantined(name, steps, "read_clips"))
            continue
        length = episode.length if clip_s is None else max(2, round(clip_s * files.fps))
        if length > episode.length:
            aside.append(Quarantined(name, f"{episode.length} frames, a clip has {length}", "read_clips"))
        for start in range(0, episode.length - length + 1, length):
            try:
                rows.append(_row(files, camera, episode, steps, start, length))
            except LaryPolicyError as error:
                aside.append(Quarantined(f"{name}, frame {start}", str(error), "read_clips"))
    if not rows:
        reason = f", for example: {aside[0].reason}" if aside else ""
        raise DatasetError(
            expected=f"a clip in {files.root}",
            got=f"none in {len(episodes)} episodes{reason}",
            fix="Choose a smaller clip_s, or a dataset of more than two episodes.",
        )
    return ClipTable(tuple(rows), tuple(aside), files.root / INFO)


def _row(
    files: LeRobotFiles, camera: str, episode: LeRobotEpisode, steps: LeRobotSteps, start: int, length: int
) -> ClipRow:
    labels = sorted({files.tasks[task] for task in steps.tasks[start : start + length]})
    if len(labels) > 1:
        raise DatasetError(
            expected="one task in a clip", got=", ".join(labels), fix="Choose a smaller clip_s."
        )
    chosen = pad_indices(uniform_indices(length, CLIP_FRAMES), CLIP_FRAMES)
    frames = tuple(stored_frame(episode, steps, camera, start + i) for i in chosen)
    path = episode.videos[camera][0] if camera in episode.videos else episode.table
    return ClipRow(
        line=steps.first_row + start,
        # With the file's digest, because frames have no names of their own by which datasets would differ.
        clip=f"{file_digest(path)[:12]}/{short_name(camera)}/{episode.number}",
        path=path,
        label=labels[0],
        indices=tuple(start + i for i in chosen),
        recording=f"episode {episode.number}",
        csv=str(path.relative_to(files.root)),
        stored=frames,
    )
