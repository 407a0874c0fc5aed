"""Plays recorded demonstrations again, to see every control step of them and not chunk boundaries only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lary_policy.data import layout
from lary_policy.data.arrays import read_chunk
from lary_policy.data.simulated.collect import ExpertSession, even_batches
from lary_policy.data.simulated.publish import layout_of
from lary_policy.data.simulated.recorder import EpisodeJob, Recording
from lary_policy.data.simulated.writer import DemonstrationLayout, EpisodeRecord
from lary_policy.errors import DatasetError, FrameFormatError
from lary_policy.frames import decode_frame, decode_image
from lary_policy.paths import read_json
from lary_policy.types import Quarantined

# A replay is the same to the bit on the machine that recorded. Other processors round otherwise: these are a
# millimetre (or milliradian, or thousandth of an opening), and two grey levels on average over a frame.
POSE_TOLERANCE, FRAME_TOLERANCE = 1e-3, 2.0
_NEEDED = ("task", "embodiment", "cameras", "image_px", "stride", "noise", "label_threshold_m", "control_hz")


@dataclass(frozen=True)
class ReplayCheck:
    """How a repeated demonstration differs from the stored one.

    Attributes:
        pose: Largest difference of a target or measured pose (metres, radians, fractions of an opening).
        grey_levels: Largest mean difference of a frame, of 255.
        unreadable: Stored frames that could not be compared.
    """

    pose: float
    grey_levels: float
    unreadable: tuple[Quarantined, ...]


@dataclass(frozen=True)
class Replayed:
    """A demonstration, seen again.

    Attributes:
        record: What the dataset says of it.
        recording: Frames and states of each of its T + 1 steps, targets of T.
        check: How it differs from what is stored.
    """

    record: EpisodeRecord
    recording: Recording
    check: ReplayCheck


def read_settings(root: Path) -> dict[str, Any]:
    """Return the settings of a dataset that can be played again; DatasetError for a folder of another."""
    settings = read_json(Path(root) / layout.DATASET_FILE)
    missing = [name for name in _NEEDED if name not in settings]
    if missing:
        raise DatasetError(
            expected=f"demonstrations that `lary data` recorded in {root}",
            got=f"{layout.DATASET_FILE} without {', '.join(missing)}",
            fix="Pass the folder of a simulated dataset: only a simulation can be played again.",
        )
    if not settings.get("origin", {}).get("lossless", True):
        raise DatasetError(
            expected="demonstrations with the frames that were rendered",
            got=f"{root}, whose frames came out of a video",
            fix="Pass the folder of the simulated dataset that the video was made from.",
        )
    return settings


def replay_episodes(
    root: Path, records: Sequence[EpisodeRecord], *, num_worlds: int = 16, render_device: str = "cpu"
) -> Iterator[Replayed]:
    """Let the expert repeat episodes of a simulated dataset and make sure that it did the same.

    All frames of `num_worlds` episodes are in memory (as PNG) at once.

    Raises:
        DatasetError: An episode came out differently, or the dataset is none of `lary data`.
    """
    settings = read_settings(root)
    form = layout_of(settings)
    by_number = {record.episode: record for record in records}
    jobs = [EpisodeJob(r.episode, r.seed, r.split) for r in records]
    with closing(ExpertSession(settings, min(num_worlds, len(jobs)), render_device)) as session:
        for batch in even_batches(jobs, num_worlds):
            for recording in session.record(batch, form, every_step=True):
                yield _compare(Path(root), form, by_number[recording.job.episode], recording)


def _compare(root: Path, form: DemonstrationLayout, record: EpisodeRecord, recording: Recording) -> Replayed:
    if recording.failure or len(recording.clean) != record.steps:
        got = recording.failure or f"{len(recording.clean)} steps"
        raise _differs(root, record, f"success after {record.steps} steps", got)
    k, number = form.stride, record.episode
    actions = [layout.action_file(number, src, src + k) for src in range(0, record.steps, k)]
    states = [layout.state_file(number, step) for step in range(0, record.steps + 1, k)]
    pose = max(
        _largest(root, actions, torch.stack(recording.clean)),
        _largest(root, states, torch.stack(recording.states)[::k]),
    )
    if not pose <= POSE_TOLERANCE:
        raise _differs(root, record, f"poses within {POSE_TOLERANCE} of the stored ones", f"{pose:.4f}")
    frame, unreadable = _compare_frames(root, form, record, recording)
    if frame > FRAME_TOLERANCE:
        raise _differs(root, record, f"frames within {FRAME_TOLERANCE} grey levels", f"{frame:.1f}")
    return Replayed(record, recording, ReplayCheck(pose, frame, unreadable))


def _compare_frames(
    root: Path, form: DemonstrationLayout, record: EpisodeRecord, recording: Recording
) -> tuple[float, tuple[Quarantined, ...]]:
    largest, unreadable = 0.0, []
    for i, camera in enumerate(form.cameras):
        folder = layout.image_folder(i, camera)
        for step in range(0, record.steps + 1, form.stride):
            name = layout.frame_file(folder, record.episode, step)
            try:
                stored = decode_frame(root / name)
            except FrameFormatError as error:
                unreadable.append(Quarantined(name, str(error), "replay"))
                continue
            seen = decode_image(recording.images[step][i], name)
            difference = (stored.float() - seen.float()).abs().mean()
            largest = max(largest, float(difference))
    return largest, tuple(unreadable)


def _largest(root: Path, files: Sequence[str], seen: Tensor) -> float:
    """Return the largest difference of poses `[T a]` from those in some files of equally many steps."""
    steps, numbers = len(seen) // len(files), seen.shape[1]
    stored = np.concatenate([read_chunk(root / name, steps, numbers) for name in files])
    return float((seen - torch.from_numpy(stored)).abs().max())


def _differs(root: Path, record: EpisodeRecord, expected: str, got: str) -> DatasetError:
    versions = read_json(root / layout.DATASET_FILE).get("versions", {})
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return DatasetError(
        expected=f"episode {record.episode} (seed {record.seed}) to repeat itself: {expected}",
        got=got,
        fix=f"Install what recorded {root} ({named or 'unknown'}), or collect the demonstrations anew.",
    )
