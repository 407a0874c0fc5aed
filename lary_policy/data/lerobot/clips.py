"""Clips of LeRobot datasets: whole episodes, or pieces of them, with their task as the class."""

from __future__ import annotations

from collections.abc import Sequence

from lary_policy.data.clips import ClipRow, ClipTable
from lary_policy.data.larybench import CLIP_FRAMES, pad_indices, uniform_indices
from lary_policy.data.lerobot.files import INFO, LeRobotEpisode, LeRobotFiles, LeRobotSteps, short_name
from lary_policy.data.lerobot.frames import stored_frame
from lary_policy.errors import DatasetError, LaryPolicyError
from lary_policy.frames import file_digest
from lary_policy.types import Quarantined


def lerobot_clips(
    files: LeRobotFiles, camera: str, episodes: Sequence[LeRobotEpisode], *, clip_s: float | None
) -> ClipTable:
    """Cut episodes into clips of which `CLIP_FRAMES` evenly spaced frames are seen; no frame is decoded.

    Args:
        files: The dataset.
        camera: Feature, named in full.
        episodes: Which.
        clip_s: Length of a clip in seconds; what is left at the end of an episode is not used. None makes
            each episode one clip.

    Raises:
        DatasetError: There is no usable clip.
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
