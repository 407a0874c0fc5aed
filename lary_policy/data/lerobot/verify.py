"""Complete check of a LeRobot dataset; what `lary data verify source=lerobot` runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lary_policy.console import OnProgress
from lary_policy.data.integrity import (
    CHECKSUMS_FILE,
    DEFAULT_TIMEOUT_S,
    IntegrityReport,
    MediaFile,
    check_file,
    find_changes,
    lost_checksums,
)
from lary_policy.data.lerobot.view import ABOUT
from lary_policy.data.parallel import Failure, for_each
from lary_policy.data.verify import verify_tables
from lary_policy.types import Quarantined

if TYPE_CHECKING:
    from lary_policy.data.lerobot.source import LeRobotSource

EXPORT_CHECKSUMS = f"meta/lary_{CHECKSUMS_FILE}"  # beside LeRobot's own files, of datasets that we wrote


def verify_lerobot(
    source: LeRobotSource,
    *,
    workers: int = 2,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    limit: int | None = None,
    on_progress: OnProgress | None = None,
) -> IntegrityReport:
    """Check the tables of every split, decode every frame that rows name, and every frame of every video.

    Found are also the differences from the checksums of a dataset that `lary data to-lerobot` wrote.

    Args:
        source: The source.
        workers: Processes that read files; 0 reads them here, without time limit.
        timeout_s: Seconds for one file.
        limit: Rows of each split that are looked at; None for all, and for whole videos and checksums.
        on_progress: Called with (files done, files in all).
    """
    shared: dict[str, Any] = {"workers": workers, "timeout_s": timeout_s}
    report = verify_tables(source, root=source.root, limit=limit, on_progress=on_progress, **shared)
    problems, checked = list(report.problems), dict(report.checked)
    episodes = source.files.episodes
    checked["episodes"] = len(episodes)
    if limit is not None:
        return replace(report, checked=checked)
    paths = dict.fromkeys(e.videos[c][0] for e in episodes for c in source.cameras if c in e.videos)
    videos = [MediaFile("clip", path, (0,)) for path in paths]
    for i, found in for_each(check_file, videos, **shared):
        if isinstance(found, Failure):
            problems.append(Quarantined(str(videos[i].path), found.reason, "videos"))
    checked["videos"] = len(videos)
    if not (source.root / EXPORT_CHECKSUMS).is_file():
        problems.extend(lost_checksums(source.root / ABOUT))
        return replace(report, checked=checked, problems=tuple(problems))
    problems.extend(find_changes(source.root, EXPORT_CHECKSUMS, **shared))
    return replace(report, checked=checked, problems=tuple(problems), unverifiable=())
