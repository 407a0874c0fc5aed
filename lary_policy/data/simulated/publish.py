"""Turns finished episodes into a dataset at its final place, and reports what a dataset holds."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lary_policy.actions import load_embodiment
from lary_policy.data import layout
from lary_policy.data.integrity import CHECKSUMS_FILE, write_checksums
from lary_policy.data.simulated.writer import (
    DemonstrationLayout,
    EpisodeRecord,
    records_from_json,
    records_to_json,
    write_metadata,
)
from lary_policy.errors import DatasetError
from lary_policy.paths import read_json, sweep_temporaries, write_json
from lary_policy.types import Quarantined

PROGRESS_FILE = "progress.json"
# Settings that are written only where they are not the default.
OPTIONAL = {"looks": "primitives", "randomisation": "none", "windows": "chunks"}
_VERSIONED = ("lerobot_policy_lary", "mujoco", "mujoco-warp", "numpy", "pillow", "torch")


@dataclass(frozen=True)
class DemonstrationReport:
    """What a collection holds.

    Attributes:
        root: Dataset root.
        dataset: Dataset name, as in the CSV names.
        episodes: Kept episodes of each split.
        failed: Episodes left out, with reasons.
        frames: Image files over all cameras.
        pairs: CSV rows over all splits.
        unlabelled: Rows without an atomic primitive (motion below the threshold).
        seconds: Time it took to collect, also when it was reused.
        reused: Whether it was complete on disk already.
    """

    root: Path
    dataset: str
    episodes: dict[str, int]
    failed: tuple[Quarantined, ...]
    frames: int
    pairs: int
    unlabelled: int
    seconds: float
    reused: bool


def every_of(config: Mapping[str, Any]) -> int:
    """Return how many control steps lie between the sources of a dataset's chunks."""
    return 1 if config.get("windows") == "dense" else int(config["stride"])


def layout_of(config: Mapping[str, Any]) -> DemonstrationLayout:
    """Return what all files of a dataset with these settings have in common."""
    return DemonstrationLayout(
        dataset=config["dataset"],
        cameras=tuple(config["cameras"]),
        embodiment=load_embodiment(config["embodiment"]),
        stride=config["stride"],
        label_threshold_m=config["label_threshold_m"],
        every=every_of(config),
    )


def publish(
    root: Path, partial: Path, config: dict[str, Any], records: Sequence[EpisodeRecord], seconds: float,
    packages: Sequence[str] = (),
) -> DemonstrationReport:  # fmt: skip
    """Complete `partial` and move it to `root`; the versions of `packages` are noted with the usual ones.

    Raises:
        DatasetError: A split has no successful episode.
        StoreError: The disk is full or not writable.
    """
    summary = complete(partial, config, records, seconds, packages)
    root.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(root)
    (root / PROGRESS_FILE).unlink(missing_ok=True)  # not earlier: killed before, the next call resumes
    return report_on(root, summary, reused=False)


def complete(
    folder: Path, config: Mapping[str, Any], records: Sequence[EpisodeRecord], seconds: float,
    packages: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Write the metadata of all splits beside the episodes and return what `dataset.json` holds.

    Raises:
        DatasetError: A split has no successful episode.
        StoreError: The disk is full or not writable.
    """
    form = layout_of(config)
    kept = sorted((r for r in records if r.success), key=lambda r: r.episode)
    failed = sorted((r for r in records if not r.success), key=lambda r: r.episode)
    for split in config["seeds"]:
        chosen = [r for r in kept if r.split == split]
        if not chosen:
            lost = [r for r in failed if r.split == split]
            example = f", for example episode {lost[0].episode}: {lost[0].failure}" if lost else ""
            raise DatasetError(
                expected=f"at least one successful episode in split {split}",
                got=f"{len(lost)} failed{example}",
                fix="Give more seeds, or less noise.",
            )
        write_metadata(folder, form, split, chosen)
    write_json(folder / layout.EPISODES_FILE, records_to_json(kept))
    summary = {
        **config,
        "versions": {name: importlib.metadata.version(name) for name in (*_VERSIONED, *packages)},
        "failed": records_to_json(failed),
        "seconds": round(seconds, 3),
        "checksums": CHECKSUMS_FILE,
    }
    write_json(folder / layout.DATASET_FILE, summary, seal=True)
    sweep_temporaries(folder, again=True)
    write_checksums(folder, without=(PROGRESS_FILE,))
    return summary


def reuse(root: Path, config: Mapping[str, Any]) -> DemonstrationReport:
    """Report on the complete dataset at `root`; DatasetError where it is another, or something else."""
    found = read_json(root / layout.DATASET_FILE) if (root / layout.DATASET_FILE).is_file() else {}
    different = sorted(key for key in {*config, *OPTIONAL} if found.get(key) != config.get(key))
    if different:
        raise DatasetError(
            expected=f"nothing at {root}, or a complete dataset of the same settings",
            got=f"one that differs in {', '.join(different)}" if found else "a folder without dataset.json",
            fix="Choose another root or delete the folder.",
        )
    (root / PROGRESS_FILE).unlink(missing_ok=True)
    return report_on(root, found, reused=True)


def report_on(root: Path, summary: Mapping[str, Any], *, reused: bool) -> DemonstrationReport:
    """Return what the dataset at `root` with this content of `dataset.json` holds."""
    kept = records_from_json(read_json(root / layout.EPISODES_FILE))
    labels = [label for r in kept for label in r.labels]
    failed = records_from_json(summary["failed"])
    return DemonstrationReport(
        root=root,
        dataset=summary["dataset"],
        episodes={split: sum(r.split == split for r in kept) for split in summary["seeds"]},
        failed=tuple(Quarantined(f"seed {r.seed} ({r.split})", r.failure, "collect") for r in failed),
        frames=sum(len(r.labels) + summary["stride"] // every_of(summary) for r in kept)
        * len(summary["cameras"]),
        pairs=len(labels),
        unlabelled=labels.count(""),
        seconds=float(summary["seconds"]),
        reused=reused,
    )
