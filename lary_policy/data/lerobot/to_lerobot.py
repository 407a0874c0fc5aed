"""Simulated demonstrations as a LeRobot dataset: every control step, success, splits and seeds.

Keys: `observation.images.<camera>`, `observation.state` and `action` (absolute end-effector targets), both
named by the embodiment's labels with its name in their `info`; `next.success`; of demonstrations with noise
also `executed` and `disturbed`. The instruction is the task; `meta/info.json` has the splits,
`meta/lary.json` the seeds.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lary_policy.actions import load_embodiment
from lary_policy.console import OnProgress
from lary_policy.data.integrity import write_checksums
from lary_policy.data.layout import EPISODES_FILE
from lary_policy.data.lerobot.files import ACTION, DISTURBED, EXECUTED, INFO, STATE, SUCCESS
from lary_policy.data.lerobot.verify import EXPORT_CHECKSUMS
from lary_policy.data.lerobot.view import ABOUT, PNG
from lary_policy.data.lerobot.writer import CODECS, DEFAULT_CRF, MAX_CRF, LeRobotForm, LeRobotWriter
from lary_policy.data.simulated import (
    EpisodeRecord,
    Recording,
    ReplayCheck,
    Replayed,
    read_episodes,
    read_settings,
    replay_episodes,
)
from lary_policy.errors import ConfigError, DatasetError, UnknownNameError
from lary_policy.frames import decode_image, file_digest
from lary_policy.paths import (
    atomic_folder,
    exclusive,
    is_vacant,
    lock_beside,
    read_json,
    visible_files,
    write_json,
)
from lary_policy.settings import some_and_different

ALL = "all"
_NOT_DATA = ("seconds", "versions")  # of the settings: how a dataset was made, not what is in it
_NUMBERS = (".npy", ".csv")  # files that a replay follows; frames are rendered anew and compared


def export_demonstrations(
    root: Path,
    out: Path,
    *,
    repo_id: str | None = None,
    split: str = ALL,
    cameras: Sequence[str] | None = None,
    video: bool = True,
    codec: str = "h264",
    crf: int = DEFAULT_CRF,
    num_worlds: int = 16,
    render_device: str = "cpu",
    on_progress: OnProgress | None = None,
) -> Path:
    """Write the demonstrations of a simulated dataset as a LeRobot dataset (format v3) and return its folder.

    A simulated dataset has frames at chunk boundaries only; a policy needs those of every control step. So
    the episodes are played again, compared with what is stored and rendered step by step. The T targets of
    an episode come with T + 1 frames, of which the last repeats the last target: a robot that has arrived
    stays. Episodes that the expert failed are not in the dataset, so they are not in this one either.

    Args:
        root: Folder of a simulated dataset, as `collect_demonstrations` writes it.
        out: Folder of the LeRobot dataset; reused if it holds the same one already.
        repo_id: Name of the dataset; `local/lary-<dataset>` by default.
        split: One split, or `all`.
        cameras: Which of the recorded cameras; None for all.
        video: Videos (lossy, small), or PNG images in the tables (lossless).
        codec: Of the videos: h264, av1 or hevc.
        crf: Their quality; less is better and larger.
        num_worlds: Worlds simulated side by side.
        render_device: Device of the renderer.
        on_progress: Called with (episodes done, episodes in all).

    Raises:
        DatasetError: `out` holds something else, `root` is no simulated dataset, or a replay differed.
        UnknownNameError: There is no such camera, split or codec.
        ConfigError: Frames of odd size cannot become a video, or the quality is out of range.
        StoreError: The disk is full or not writable; nothing is left behind.
    """
    root, out = Path(root), Path(out)
    settings = read_settings(root)
    records = _choose(root, settings, split)
    about = _about(settings, records, repo_id, cameras, (codec, crf) if video else (PNG, None))
    about["content"] = _content(root)
    form = _form(settings, about)
    longest = max(r.steps for r in records) + 1
    with exclusive(lock_beside(out)):  # of two that write the same, one waits and reuses
        if not is_vacant(out):
            return _reuse(out, about)
        replayed = replay_episodes(root, records, num_worlds=num_worlds, render_device=render_device)
        with atomic_folder(out) as partial, LeRobotWriter(partial, form, longest=longest) as writer:
            _export(writer, partial, settings, about, records, replayed, on_progress)
    return out


def _export(
    writer: LeRobotWriter,
    partial: Path,
    settings: Mapping[str, Any],
    about: Mapping[str, Any],
    records: Sequence[EpisodeRecord],
    replayed: Iterator[Replayed],
    on_progress: OnProgress | None,
) -> None:
    started = time.perf_counter()  # importing LeRobot takes longer than writing a few episodes
    checks: list[ReplayCheck] = []
    for seen in replayed:
        _write(writer, settings, about["cameras"], seen.recording)
        checks.append(seen.check)
        if on_progress is not None:
            on_progress(len(checks), len(records))
    writer.finish(_splits(records))
    seconds = round(time.perf_counter() - started, 3)
    told = {**about, **_findings(checks), "seconds": seconds, "checksums": EXPORT_CHECKSUMS}
    write_json(partial / ABOUT, told, seal=True)
    write_checksums(partial, EXPORT_CHECKSUMS)


def _content(root: Path) -> str:
    """Return 64 hex digits that change with the numbers and labels of demonstrations."""
    found = hashlib.sha256()
    for path in visible_files(root, "**/*"):
        if path.suffix in _NUMBERS or path.name == EPISODES_FILE:
            found.update(f"{path.relative_to(root)}:{file_digest(path)};".encode())
    return found.hexdigest()


def _findings(checks: Sequence[ReplayCheck]) -> dict[str, Any]:
    return {
        "largest_difference": {
            "pose": max(check.pose for check in checks),
            "grey_levels": max(check.grey_levels for check in checks),
        },
        "unreadable": [asdict(frame) for check in checks for frame in check.unreadable],
    }


def _about(
    settings: Mapping[str, Any],
    records: Sequence[EpisodeRecord],
    repo_id: str | None,
    cameras: Sequence[str] | None,
    stored: tuple[str, int | None],
) -> dict[str, Any]:
    """Return what `ABOUT` says, which also decides whether two exports are the same."""
    frames, crf = stored
    if frames not in (*CODECS, PNG):
        raise UnknownNameError("codec", frames, CODECS)
    if crf is not None and not 0 <= crf <= MAX_CRF:
        raise ConfigError(expected=f"crf from 0 to {MAX_CRF}", got=str(crf), fix="Pass crf=18, for example.")
    chosen = list(settings["cameras"] if cameras is None else cameras)
    some_and_different("cameras", chosen)
    for camera in chosen:
        if camera not in settings["cameras"]:
            raise UnknownNameError("recorded camera", camera, settings["cameras"])
    return {
        "repo_id": repo_id or f"local/lary-{settings['dataset']}",
        "cameras": chosen,
        "frames": frames,
        "crf": crf,
        "dataset": {key: value for key, value in settings.items() if key not in _NOT_DATA},
        "steps": sum(r.steps + 1 for r in records),
        "episodes": [{"episode": r.episode, "seed": r.seed, "split": r.split} for r in records],
    }


def _write(
    writer: LeRobotWriter, settings: Mapping[str, Any], cameras: Sequence[str], recording: Recording
) -> None:
    """Write the T + 1 steps of an episode; what belongs to the T steps between repeats its last value."""
    from lary_envs.tasks import task_spec

    places = {camera: settings["cameras"].index(camera) for camera in cameras}
    frames = [
        {camera: decode_image(views[i], f"{camera} of step {step}").numpy() for camera, i in places.items()}
        for step, views in enumerate(recording.images)
    ]

    def held(values: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([values, values[-1:]])

    values: dict[str, NDArray[Any]] = {
        STATE: torch.stack(recording.states).numpy().astype(np.float32),
        ACTION: held(torch.stack(recording.clean).numpy().astype(np.float32)),
        SUCCESS: held(np.array(recording.succeeded)[:, None]),
    }
    if writer.form.noise:
        values[EXECUTED] = held(torch.stack(recording.executed).numpy().astype(np.float32))
        values[DISTURBED] = held(np.array(recording.disturbed)[:, None])
    writer.add(task_spec(settings["task"]).instruction, frames, values)


def _form(settings: Mapping[str, Any], about: Mapping[str, Any]) -> LeRobotForm:
    px, noise = int(settings["image_px"]), settings["noise"]
    return LeRobotForm(
        repo_id=about["repo_id"],
        embodiment=load_embodiment(settings["embodiment"]),
        cameras=tuple(about["cameras"]),
        height=px,
        width=px,
        codec=None if about["frames"] == PNG else about["frames"],
        crf=DEFAULT_CRF if about["crf"] is None else about["crf"],
        noise=bool(noise["std_m"] or noise["std_rad"]),
    )


def _choose(root: Path, settings: Mapping[str, Any], split: str) -> list[EpisodeRecord]:
    """Return the episodes of a split, or of all, split by split."""
    known = list(settings["seeds"])
    if split not in (*known, ALL):
        raise UnknownNameError("split", split, (*known, ALL))
    records = read_episodes(root, None if split == ALL else split)
    return sorted(records, key=lambda r: (known.index(r.split), r.episode))


def _splits(records: Sequence[EpisodeRecord]) -> dict[str, tuple[int, int]]:
    """Return first and last + 1 place of each split in the ordered records."""
    places: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(record.split, []).append(place)
    return {split: (found[0], found[-1] + 1) for split, found in places.items()}


def _reuse(out: Path, about: Mapping[str, Any]) -> Path:
    found = read_json(out / ABOUT) if (out / ABOUT).is_file() and (out / INFO).is_file() else {}
    different = sorted(key for key in about if found.get(key) != about[key])
    if different:
        raise DatasetError(
            expected=f"nothing at {out}, or the same LeRobot dataset",
            got=f"one that differs in {', '.join(different)}" if found else "something else",
            fix="Choose another folder or delete this one.",
        )
    return out
