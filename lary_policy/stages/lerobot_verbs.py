"""`lary data to-lerobot|from-lerobot`: demonstrations to LeRobot datasets and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lary_policy.console import console, progress
from lary_policy.data.lerobot import LeRobotAbout, export_demonstrations, import_demonstrations
from lary_policy.data.simulated import DemonstrationReport
from lary_policy.errors import ConfigError
from lary_policy.machine import intra_op_threads, resolve_device
from lary_policy.stages.config import EncoderChoice, suite_config
from lary_policy.stages.context import RunContext
from lary_policy.stages.data import collect_task

Settings = Mapping[str, Any]
_OWN = (
    "out",
    "root",
    "repo_id",
    "split",
    "video",
    "codec",
    "crf",
)  # the other settings are those of `lary data`
_BLIND = EncoderChoice("pixels", image_px=14)  # collecting needs no encoder: one that always fits
_SHOWN = 20  # episodes listed


def to_lerobot(settings: Settings) -> bool:
    """Collect the demonstrations of a task, unless they are there, and write them as a LeRobot dataset.

    Raises:
        LaryPolicyError: A setting is missing or wrong, or nothing can be written.
    """
    out = _needed(settings, "out", "out=outputs/lerobot/reach")
    config = replace(
        suite_config({k: v for k, v in settings.items() if k not in _OWN}),
        encoders=(_BLIND,), probes=(), rollouts=(),
    )  # fmt: skip
    if settings["root"] is None:
        root = collect_task(RunContext.create(config), config.tasks[0])
    else:
        root = Path(settings["root"])
    with progress(f"to-lerobot {root.name}") as update, intra_op_threads(1):
        export_demonstrations(
            root,
            out,
            repo_id=settings["repo_id"],
            split=settings["split"],
            video=settings["video"],
            codec=settings["codec"],
            crf=settings["crf"],
            num_worlds=config.num_worlds,
            render_device=resolve_device(config.device),
            on_progress=update,
        )
    about = LeRobotAbout.read(out)
    _tell_export(out, about)
    return not about.unreadable


def from_lerobot(settings: Settings) -> bool:
    """Write a LeRobot dataset in the layout of `lary data`.

    Raises:
        LaryPolicyError: A setting is missing or wrong, or the dataset cannot be written so.
    """
    root = _needed(settings, "root", "root=/data/my_dataset")
    out = _needed(settings, "out", "out=outputs/my_dataset")
    with progress(f"from-lerobot {root.name}") as update:
        report = import_demonstrations(
            root,
            out,
            name=settings["name"],
            cameras=settings["cameras"],
            stride=settings["stride"],
            state_key=settings["state_key"],
            action_keys=settings["action_keys"],
            embodiment=settings["embodiment"],
            action_names=settings["action_names"],
            gripper_open=settings["gripper_open"],
            label_threshold_m=settings["label_threshold_m"],
            on_progress=update,
        )
    _tell_import(report)
    return not report.failed


def _needed(settings: Settings, name: str, example: str) -> Path:
    if settings[name] is None:
        raise ConfigError(expected=f"{name}=<folder>", got="none", fix=f"Pass {example}, for example.")
    return Path(settings[name])


def _tell_export(out: Path, about: LeRobotAbout) -> None:
    counts = Counter(split for _, _, split in about.episodes)
    images = about.steps * len(about.cameras)
    rate = images / max(about.seconds, 1e-9)
    console.print(
        f"    {_episodes(counts)}, {about.steps} steps seen by {', '.join(about.cameras)}; {images} frames "
        f"({about.frames}) in {about.seconds:.1f} s = {rate:.0f} frames/s\n    {out}",
        soft_wrap=True,
    )
    _tell([f"seed {r.seed} ({r.split}) left out: {r.failure}" for r in about.failed])
    _tell([f"{frame}: damaged, so not compared with the frame rendered anew" for frame in about.unreadable])


def _tell_import(report: DemonstrationReport) -> None:
    console.print(
        f"    {_episodes(report.episodes)}, {report.pairs} pairs ({report.unlabelled} without a primitive), "
        f"{report.frames} frames in {report.seconds:.1f} s\n    {report.root}",
        soft_wrap=True,
    )
    _tell([f"{episode.item} left out: {episode.reason}" for episode in report.failed])


def _episodes(counts: Mapping[str, int]) -> str:
    return f"{sum(counts.values())} episodes ({', '.join(f'{n} {split}' for split, n in counts.items())})"


def _tell(lines: Sequence[str]) -> None:
    for line in lines[:_SHOWN]:
        console.print(f"    {line}", soft_wrap=True, markup=False)
    if len(lines) > _SHOWN:
        console.print(f"    and {len(lines) - _SHOWN} more")
