"""LeRobot datasets as demonstrations in the LARYBench layout, the way `lary data` writes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lary_policy.data.atomic import DEFAULT_THRESHOLD_M
from lary_policy.data.lerobot.files import SUCCESS, LeRobotEpisode, short_name
from lary_policy.data.lerobot.frames import LeRobotMotion, stored_frame
from lary_policy.data.lerobot.source import SPLITS, LeRobotSource
from lary_policy.data.lerobot.view import ABOUT, LeRobotAbout
from lary_policy.data.simulated import (
    DemonstrationLayout,
    DemonstrationReport,
    EpisodeJob,
    EpisodeRecord,
    Recording,
    complete,
    layout_of,
    png_bytes,
    report_on,
    reuse,
    write_episode,
)
from lary_policy.data.spec import checked_settings
from lary_policy.errors import DatasetError, EmbodimentError, FrameFormatError
from lary_policy.frames import decode_frames
from lary_policy.paths import atomic_folder, choices, exclusive, is_vacant, lock_beside


def import_demonstrations(
    root: Path,
    out: Path,
    *,
    name: str | None = None,
    stride: int | None = None,
    label_threshold_m: float = DEFAULT_THRESHOLD_M,
    on_progress: Callable[[int, int], None] | None = None,
    **mapping: Any,
) -> DemonstrationReport:
    """Write a LeRobot dataset as images, poses, chunks, `episodes.json` and pair CSVs.

    Episodes are cut into whole chunks; frames in between are left out. Atomic primitives are derived from the
    measured poses. Episodes that never reach `next.success`, where the dataset has it, and episodes with a
    damaged frame or a number that is not finite are left out and listed. Of a dataset that
    `export_demonstrations` wrote, numbers, seeds, splits and settings of the episodes are those it was made
    from; of others the seed of an episode is its number and splits are those of `LeRobotSource`.

    Args:
        root: Folder of the LeRobot dataset.
        out: Folder to write; reused if it holds the same already.
        name: Name of the dataset in its CSVs; by default that of the simulated one, or of the folder.
        stride: Steps k of a chunk; None for that of the simulated dataset, or a quarter of a second.
        label_threshold_m: Smallest displacement along an axis that names a direction.
        on_progress: Called with (episodes done, episodes in all).
        mapping: `cameras`, `action_keys`, `state_key`, `embodiment`, `action_names` and `gripper_open` of
            `LeRobotSource`.

    Raises:
        DatasetError: The dataset is damaged, has no measured poses, or a split has no usable episode.
        EmbodimentError: The actions are mapped to no embodiment, or it has another control rate.
        StoreError: The disk is full or not writable; nothing is left behind.
    """
    about = LeRobotAbout.read(root) if (Path(root) / ABOUT).is_file() else None
    if about is not None and stride is None:
        stride = int(about.settings["stride"])
    settings = checked_settings("source lerobot", LeRobotSource, {"stride": stride, **mapping})
    source = LeRobotSource(data_dir=Path(root), **settings)
    _check(source)
    jobs = _jobs(source, about)
    config = _config(source, about, jobs, name, label_threshold_m)
    with exclusive(lock_beside(Path(out))):  # of two that write the same, one waits and reuses
        if not is_vacant(Path(out)):
            return reuse(Path(out), config)
        with atomic_folder(Path(out)) as partial:
            started = time.perf_counter()
            records = _write(partial, layout_of(config), source, jobs, on_progress)
            if about is not None:
                records += [r for r in about.failed if r.split in config["seeds"]]
            summary = complete(partial, config, records, time.perf_counter() - started)
    return report_on(Path(out), summary, reused=False)


def _check(source: LeRobotSource) -> None:
    mapping = source.mapping
    if mapping.origin == "inferred":
        raise EmbodimentError(
            expected=f"actions of one of the embodiments {', '.join(choices('embodiment'))}",
            got=f"numbers named {', '.join(mapping.names)} of a dataset that states none",
            fix="Pass embodiment=<name>, and action_names=[...] where the names do not say which is which.",
        )
    if not source.has_states:
        raise DatasetError(
            expected=f"measured poses (state_key) with the numbers {', '.join(mapping.names)}",
            got=f"features {', '.join(source.files.features)}",
            fix="Choose a dataset that has them, or use this one with `lary suite source=lerobot`.",
        )
    if source.files.fps != mapping.embodiment.control_hz:
        raise EmbodimentError(
            expected=f"{mapping.embodiment.control_hz:g} steps a second, as {mapping.embodiment.name} has",
            got=f"{source.files.fps:g}",
            fix="Choose or add an embodiment of this control rate (configs/embodiment).",
        )


_Job = tuple[LeRobotEpisode, EpisodeJob]  # an episode of the LeRobot dataset and what it becomes


def _jobs(source: LeRobotSource, about: LeRobotAbout | None) -> list[_Job]:
    episodes = source.files.episodes
    if about is None:
        splits = {e.number: split for split in SPLITS for e in source.episodes(split)}
        return [(e, EpisodeJob(e.number, e.number, splits[e.number])) for e in episodes]
    if len(about.episodes) != len(episodes):
        raise DatasetError(
            expected=f"{len(about.episodes)} episodes, as {ABOUT} states",
            got=f"{len(episodes)}",
            fix=f"Delete {ABOUT} to use the edited dataset as any other.",
        )
    return [(e, EpisodeJob(*known)) for e, known in zip(episodes, about.episodes, strict=True)]


def _config(
    source: LeRobotSource,
    about: LeRobotAbout | None,
    jobs: Sequence[_Job],
    name: str | None,
    threshold: float,
) -> dict[str, Any]:
    """Return the settings that `dataset.json` holds."""
    seeds: dict[str, list[int]] = {}
    for _, job in jobs:
        seeds.setdefault(job.split, []).append(job.seed)
    own = {} if about is None else {k: v for k, v in about.settings.items() if k != "failed"}
    seeds = {split: own.get("seeds", seeds)[split] for split in seeds}  # with those that failed
    origin = {
        "format": "LeRobot",
        "repo_id": None if about is None else about.repo_id,
        "lossless": not source.files.episodes[0].videos,
        "seeds": "numbers of the episodes" if about is None else "of the simulation",
        "tasks": sorted({task for episode, _ in jobs for task in episode.tasks}),
    }
    return {
        **own,
        "dataset": name or own.get("dataset") or source.root.absolute().name.lstrip("."),
        "embodiment": source.mapping.embodiment.name,
        "control_hz": source.mapping.embodiment.control_hz,
        "stride": source.stride,
        "cameras": list(map(short_name, source.cameras)),
        "label_threshold_m": threshold,
        "seeds": seeds,
        "origin": origin,
        "content": source.files.content(source.cameras),
    }


def _write(
    partial: Path,
    form: DemonstrationLayout,
    source: LeRobotSource,
    jobs: Sequence[_Job],
    on_progress: Callable[[int, int], None] | None,
) -> list[EpisodeRecord]:
    wanted = {episode.number: job for episode, job in jobs}
    succeeded = _successes(source)
    records = []
    for episode, motion in source.motions([episode for episode, _ in jobs]):
        job = wanted[episode.number]
        recording = _recording(source, episode, motion, job, succeeded.get(episode.number))
        if isinstance(recording, str):
            about = (job.episode, job.seed, job.split, episode.length, False, None)
            records.append(EpisodeRecord(*about, failure=recording))
        else:
            records.append(write_episode(partial, form, recording))
        if on_progress is not None:
            on_progress(len(records), len(jobs))
    return records


def _recording(
    source: LeRobotSource,
    episode: LeRobotEpisode,
    motion: LeRobotMotion | str,
    job: EpisodeJob,
    succeeded: Tensor | None,
) -> Recording | str:
    """Return an episode as the recorder would have made it, or why it is left out."""
    if isinstance(motion, str):
        return motion
    k = source.stride
    steps = (episode.length - 1) // k * k
    if steps == 0:
        return f"{episode.length} frames, fewer than the {k + 1} of a chunk"
    if not motion.is_finite(slice(0, steps)) or not torch.isfinite(motion.poses).all():
        return "an action or state is not finite"
    if succeeded is not None and not succeeded.any():
        return "it did not succeed"
    images = _images(source, episode, motion, range(0, steps + 1, k))
    if isinstance(images, str):
        return images
    first = None if succeeded is None else int(succeeded.int().argmax()) + 1
    return Recording(
        job,
        start_pose=motion.poses[0],
        images=images,
        states=list(motion.poses[0 : steps + 1 : k]),
        clean=list(motion.actions[:steps]),
        executed=list(motion.executed[:steps]),
        disturbed=motion.disturbed[:steps].tolist(),
        success_step=first,
    )


def _images(
    source: LeRobotSource, episode: LeRobotEpisode, motion: LeRobotMotion, steps: Sequence[int]
) -> list[list[bytes]] | str:
    """Return the frames of each camera at some steps as PNG, or what is wrong with one."""
    columns = []
    for camera in source.cameras:
        frames = [stored_frame(episode, motion.steps, camera, step) for step in steps]
        column = decode_frames(frames)
        bad = next((image for image in column if isinstance(image, FrameFormatError)), None)
        if bad is not None:
            return f"{short_name(camera)}: {bad}"
        columns.append([png_bytes(image) for image in column if isinstance(image, Tensor)])
    return [list(views) for views in zip(*columns, strict=True)]


def _successes(source: LeRobotSource) -> dict[int, Tensor]:
    """Return `next.success` of each episode, bool `[T]`; nothing where the dataset does not have it."""
    feature = source.files.features.get(SUCCESS)
    if feature is None or tuple(feature["shape"]) != (1,):
        return {}
    steps = source.files.steps(source.files.episodes, [SUCCESS])
    return {e.number: found.values[SUCCESS][:, 0].bool() for e, found in steps if not isinstance(found, str)}
