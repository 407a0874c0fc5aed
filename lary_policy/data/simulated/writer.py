"""Writes recorded demonstrations in the LARYBench layout."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lary_policy.actions import Embodiment
from lary_policy.data import layout
from lary_policy.data.atomic import arm_motions, label_arms
from lary_policy.data.simulated.recorder import Recording
from lary_policy.errors import DatasetError, StoreError
from lary_policy.paths import atomic_write, read_json


@dataclass(frozen=True)
class EpisodeRecord:
    """One demonstration.

    Attributes:
        episode: Its number, the N of `ep_N`.
        seed: Seed of its initial state.
        split: Split it belongs to.
        steps: Control steps recorded, a multiple of the stride.
        success: Whether it succeeded (only these are kept in a dataset).
        success_step: Control steps until the first success, or None.
        labels: Atomic primitive of each chunk.
        noise_steps: Disturbed steps of each chunk.
        failure: Why it was left out, or "".
    """

    episode: int
    seed: int
    split: str
    steps: int
    success: bool
    success_step: int | None
    labels: tuple[str, ...] = ()
    noise_steps: tuple[int, ...] = ()
    failure: str = ""


def records_to_json(records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """Return the content of `episodes.json`: a mapping from episode number to the rest of its record."""
    rows = [asdict(r) for r in sorted(records, key=lambda r: r.episode)]
    return {str(row.pop("episode")): row for row in rows}


def records_from_json(value: dict[str, Any]) -> tuple[EpisodeRecord, ...]:
    """Invert `records_to_json`; DatasetError where a record has missing or unknown fields."""
    try:
        return tuple(
            EpisodeRecord(
                episode=int(number),
                **{**row, "labels": tuple(row["labels"]), "noise_steps": tuple(row["noise_steps"])},
            )
            for number, row in value.items()
        )
    except Exception as error:  # the file is anything that JSON holds
        raise DatasetError(
            expected=f"episode records with fields {', '.join(EpisodeRecord.__dataclass_fields__)}",
            got=f"{type(error).__name__}: {error}",
            fix="Write the dataset anew with `lary data`.",
        ) from error


def read_episodes(root: Path, split: str | None = None) -> tuple[EpisodeRecord, ...]:
    """Return the episodes of a simulated dataset in order of their number, of one split or of all.

    DatasetError where `episodes.json` is missing or damaged.
    """
    records = records_from_json(read_json(Path(root) / layout.EPISODES_FILE))
    return tuple(r for r in records if split is None or r.split == split)


@dataclass(frozen=True)
class DemonstrationLayout:
    """What the files of all episodes of a dataset have in common."""

    dataset: str
    cameras: tuple[str, ...]
    embodiment: Embodiment
    stride: int
    label_threshold_m: float
    every: int  # control steps between the sources of chunks; with fewer than the stride, chunks overlap


def write_episode(root: Path, form: DemonstrationLayout, recording: Recording) -> EpisodeRecord:
    """Write images, states and actions of a successful episode and return its record.

    Raises:
        StoreError: The disk is full or not writable.
    """
    number, k = recording.job.episode, form.stride
    folders = [layout.image_folder(i, camera) for i, camera in enumerate(form.cameras)]
    clean, executed = torch.stack(recording.clean), torch.stack(recording.executed)
    disturbed = torch.tensor(recording.disturbed)
    boundaries, sources = range(0, len(clean) + 1, form.every), range(0, len(clean) - k + 1, form.every)
    try:
        for step, images, state in zip(boundaries, recording.images, recording.states, strict=True):
            for folder, image in zip(folders, images, strict=True):
                _fresh(root, layout.frame_file(folder, number, step)).write_bytes(image)
            _save(root, layout.state_file(number, step), state)
        for src in sources:
            _save(root, layout.action_file(number, src, src + k), clean[src : src + k])
            if disturbed[src : src + k].any():
                name = layout.action_file(number, src, src + k, layout.EXECUTED)
                _save(root, name, executed[src : src + k])
        if recording.scene:
            shown = recording.scene[:: k // form.every]
            scene = {name: [one[name] for one in shown] for name in shown[0]}
            text = json.dumps({"state": scene, "free": recording.free})
            _fresh(root, layout.scene_file(number)).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(
            expected=f"room and permission to write episode {number} below {root}",
            got=f"{type(error).__name__}: {error.strerror or error}",
            fix="Free disk space and start the same command again; finished episodes are kept.",
        ) from error
    return EpisodeRecord(
        episode=number,
        seed=recording.job.seed,
        split=recording.job.split,
        steps=len(clean),
        success=True,
        success_step=recording.success_step,
        labels=_labels(form, recording, clean),
        noise_steps=tuple(int(disturbed[src : src + k].sum()) for src in sources),
    )


def write_metadata(
    root: Path, form: DemonstrationLayout, split: str, records: Sequence[EpisodeRecord]
) -> int:
    """Write the CSV of a split, rows ordered by episode and step, and return the number of rows.

    Raises:
        StoreError: The disk is full or not writable.
    """
    further = [f"{side}_img_{camera}" for camera in form.cameras[1:] for side in ("src", "tgt")]
    columns = (*layout.LARY_COLUMNS, *layout.EXTRA_COLUMNS, *further)
    rows = [row for record in records for row in _csv_rows(form, record)]
    target = root / layout.metadata_name(form.dataset, split)
    with atomic_write(target) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def _csv_rows(form: DemonstrationLayout, record: EpisodeRecord) -> Iterator[dict[str, Any]]:
    k, number = form.stride, record.episode
    for chunk, (label, noise) in enumerate(zip(record.labels, record.noise_steps, strict=True)):
        src = chunk * form.every
        tgt = src + k
        action = layout.action_file(number, src, tgt)
        row = {
            "dataset": form.dataset,
            "type": "robot",
            "perspective": "1st" if form.cameras[0] == "wrist" else "3rd",
            "src_state": layout.state_file(number, src),
            "tgt_state": layout.state_file(number, tgt),
            "action": action,
            "episode": number,
            "label": label,
            "executed": layout.action_file(number, src, tgt, layout.EXECUTED) if noise else "",
            "noise_steps": noise,
        }
        for i, camera in enumerate(form.cameras):
            suffix, folder = f"_{camera}" if i else "", layout.image_folder(i, camera)
            row[f"src_img{suffix}"] = layout.frame_file(folder, number, src)
            row[f"tgt_img{suffix}"] = layout.frame_file(folder, number, tgt)
        yield row


def _labels(form: DemonstrationLayout, recording: Recording, clean: Tensor) -> tuple[str, ...]:
    """Label each chunk by measured displacement and by the change of the commanded gripper opening."""
    commanded, states = torch.cat([recording.start_pose[None], clean]), torch.stack(recording.states)
    meant, moved = commanded[:: form.every], form.stride // form.every
    motions = arm_motions(form.embodiment, states[moved:] - states[:-moved], meant[moved:] - meant[:-moved])
    return label_arms(motions, threshold_m=form.label_threshold_m)


def _fresh(root: Path, relative: str) -> Path:
    path = root / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _save(root: Path, relative: str, values: Tensor) -> None:
    np.save(_fresh(root, relative), values.numpy().astype(np.float32), allow_pickle=False)
