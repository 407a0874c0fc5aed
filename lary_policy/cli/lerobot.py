"""`lary data to-lerobot|from-lerobot`: demonstrations to LeRobot datasets and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lary_policy.cli.verify import tell
from lary_policy.console import console, progress
from lary_policy.data.lerobot import LeRobotAbout, export_demonstrations, import_demonstrations
from lary_policy.data.simulated import DemonstrationReport
from lary_policy.errors import ConfigError
from lary_policy.machine import intra_op_threads, resolve_device
from lary_policy.runs import RunContext, collect_demos, require_single, run_config

if TYPE_CHECKING:
    from lary_policy.cli.data import FromLeRobotSettings, ToLeRobotSettings


def to_lerobot(settings: ToLeRobotSettings, run: Mapping[str, Any]) -> bool:
    """Collect the demonstrations of a task, unless they are there, and write them as a LeRobot dataset.

    Args:
        settings: Of the LeRobot dataset.
        run: Of the demonstrations, as `lary data` takes them.

    Raises:
        LaryPolicyError: A setting is missing or wrong, or nothing can be written.
    """
    out = _needed(settings.out, "out", "out=outputs/lerobot/reach")
    config = run_config(run)
    root = settings.root
    if root is None:
        require_single(config, "a LeRobot dataset")
        root = collect_demos(RunContext.create(config, until="data"), config.tasks[0])
    with progress(f"to-lerobot {root.name}") as update, intra_op_threads(1):
        export_demonstrations(
            root,
            out,
            repo_id=settings.repo_id,
            split=settings.split,
            video=settings.video,
            codec=settings.codec,
            crf=settings.crf,
            num_worlds=config.num_worlds,
            render_device=resolve_device(config.device),
            on_progress=update,
        )
    about = LeRobotAbout.read(out)
    _tell_export(out, about)
    return not about.unreadable


def from_lerobot(settings: FromLeRobotSettings) -> bool:
    """Write a LeRobot dataset in the layout of `lary data`.

    Raises:
        LaryPolicyError: A setting is missing or wrong, or the dataset cannot be written so.
    """
    root = _needed(settings.root, "root", "root=/data/my_dataset")
    out = _needed(settings.out, "out", "out=outputs/my_dataset")
    given = {one.name: getattr(settings, one.name) for one in fields(settings)}
    options = {name: value for name, value in given.items() if name not in ("root", "out")}
    with progress(f"from-lerobot {root.name}") as update:
        report = import_demonstrations(root, out, **options, on_progress=update)
    _tell_import(report)
    return not report.failed


def _needed(folder: Path | None, name: str, example: str) -> Path:
    if folder is None:
        raise ConfigError(expected=f"{name}=<folder>", got="none", fix=f"Pass {example}, for example.")
    return folder


def _tell_export(out: Path, about: LeRobotAbout) -> None:
    counts = Counter(split for _, _, split in about.episodes)
    images = about.steps * len(about.cameras)
    rate = images / max(about.seconds, 1e-9)
    console.print(
        f"    {_episodes(counts)}, {about.steps} steps seen by {', '.join(about.cameras)}; {images} frames "
        f"({about.frames}) in {about.seconds:.1f} s = {rate:.0f} frames/s\n    {out}",
        soft_wrap=True,
    )
    tell([f"seed {r.seed} ({r.split}) left out: {r.failure}" for r in about.failed])
    tell([f"{frame}: damaged, so not compared with the frame rendered anew" for frame in about.unreadable])


def _tell_import(report: DemonstrationReport) -> None:
    console.print(
        f"    {_episodes(report.episodes)}, {report.pairs} pairs ({report.unlabelled} without a primitive), "
        f"{report.frames} frames in {report.seconds:.1f} s\n    {report.root}",
        soft_wrap=True,
    )
    tell([f"{episode.item} left out: {episode.reason}" for episode in report.failed])


def _episodes(counts: Mapping[str, int]) -> str:
    return f"{sum(counts.values())} episodes ({', '.join(f'{n} {split}' for split, n in counts.items())})"
