"""`lary data verify`: read everything of a source, or under an output folder, and say what is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lary_policy.console import console, progress
from lary_policy.data import CHECKSUMS_FILE, IntegrityReport, verify_files, verify_source
from lary_policy.data.lerobot import ABOUT, EXPORT_CHECKSUMS
from lary_policy.data.simulated import verify_dataset
from lary_policy.errors import DatasetError, LaryPolicyError
from lary_policy.latents import verify_store
from lary_policy.paths import visible_files
from lary_policy.policy.cache import verify_view
from lary_policy.runs import RESULT, verify_cell, write_result
from lary_policy.types import Quarantined

if TYPE_CHECKING:
    from lary_policy.cli.data import VerifySettings

SHOWN = 20  # problems printed of each folder; the report file has all of them


def verify(settings: VerifySettings) -> bool:
    """Check a source, or every dataset and latent store of an output folder; True if all is well.

    Raises:
        DatasetError: There is nothing to check.
        LaryPolicyError: The source cannot be opened.
    """
    if settings.source is None and settings.data_dir is None:
        return verify_outputs(settings.output_dir, workers=settings.workers, timeout_s=settings.timeout_s)
    return _verify_source(settings)


def _verify_source(settings: VerifySettings) -> bool:
    from lary_policy.cli.larybench import opened

    source: Any = opened(settings)
    key = source.spec.key

    def check(root: Path, *, on_progress: Callable[[int, int], None]) -> IntegrityReport:
        return verify_source(
            source,
            workers=settings.workers,
            timeout_s=settings.timeout_s,
            limit=settings.limit,
            on_progress=on_progress,
        )

    label = f"{key} ({source.spec.protocol})"
    report = check_folder(source.root, check, label=label)
    say(report, label)
    told = {"source": key, "protocol": source.spec.protocol, **plain_report(report)}
    write_findings(settings.output_dir, f"verify-{key}", told)
    return report.ok


def verify_outputs(output_dir: Path, *, workers: int, timeout_s: float) -> bool:
    """Check every dataset and latent store of an output folder and write `verify.json`; True if all is well.

    Args:
        output_dir: The folder.
        workers: Processes that read files of datasets; 0 reads them here, without time limit.
        timeout_s: Seconds for one of these files.

    Raises:
        DatasetError: There is nothing to check.
    """
    cache = output_dir / "cache"
    datasets = [p.parent for p in visible_files(cache, "data/*/dataset.json")]
    stores = [p.parent for p in visible_files(cache, "latents/*/store.json")]
    views = [p for p in visible_files(cache, "views/*") if p.is_dir()]  # what `lary train` reads
    cells = [p.parent for p in visible_files(cache, f"*/*/{RESULT}")]
    places = (f"*/{CHECKSUMS_FILE}", f"policies/*/{CHECKSUMS_FILE}")  # reports and policies
    written = [p.parent for place in places for p in visible_files(output_dir, place)]
    made = (f"{'*/' * depth}{name}" for depth in (1, 2) for name in (ABOUT, EXPORT_CHECKSUMS))
    exports = dict.fromkeys(p.parents[1] for place in made for p in visible_files(output_dir, place))
    if not (datasets or stores or views or cells or written or exports):
        raise DatasetError(
            expected=f"datasets, latents, results, reports, policies or exports under {output_dir}",
            got="none",
            fix="Run `lary data` first, or pass output_dir=<folder>.",
        )
    dataset = partial(verify_dataset, workers=workers, timeout_s=timeout_s)
    export = partial(verify_files, name=EXPORT_CHECKSUMS)
    checks: list[tuple[Path, Callable[..., IntegrityReport]]] = [
        *((folder, dataset) for folder in datasets),
        *((folder, verify_store) for folder in stores),
        *((folder, verify_view) for folder in views),
        *((folder, verify_cell) for folder in cells),
        *((folder, verify_files) for folder in written if not folder.is_symlink()),
        *((folder, export) for folder in exports if not folder.is_symlink()),
    ]
    reports = [check_folder(folder, check) for folder, check in checks]
    path = write_findings(output_dir, "verify", [plain_report(report) for report in reports], quiet=True)
    problems = sum(len(report.problems) for report in reports)
    verdict = f"{len(reports)} folders checked, {problems} problems; all of them: {path}"
    console.print(f"{'WRONG' if problems else 'ok'}: {verdict}", soft_wrap=True)
    found = zip(checks, reports, strict=True)
    for (folder, _), report in sorted(found, key=lambda one: one[1].ok):  # what is wrong first
        say(report, _name(folder))
    if problems:  # the lines above may be many
        console.print(f"WRONG: {verdict}", soft_wrap=True)
    return problems == 0


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def check_folder(
    folder: Path, check: Callable[..., IntegrityReport], *, label: str | None = None
) -> IntegrityReport:
    """Run a check of a folder and return what it found.

    Args:
        folder: What is checked.
        check: Called with the folder and `on_progress`.
        label: How it is called while it runs; None for the end of its path.
    """
    with progress(f"verify {label or _name(folder)}") as update:
        try:
            return check(folder, on_progress=update)
        except LaryPolicyError as error:  # what says how the folder is to be checked is damaged itself
            return IntegrityReport(folder, {}, (Quarantined(str(folder), str(error), "folder"),))


def say(report: IntegrityReport, label: str) -> None:
    """Print what a check found."""
    counts = ", ".join(f"{number} {name}" for name, number in report.checked.items())
    found = f"{counts}, {len(report.problems)} problems"
    console.print(f"    {'ok' if report.ok else 'WRONG'}: {label}: {found}", soft_wrap=True, markup=False)
    tell([f"{problem.item}: {problem.reason}" for problem in report.problems])
    tell(list(report.unverifiable))


def plain_report(report: IntegrityReport) -> dict[str, Any]:
    """Return what a check found, for a file."""
    return {one.name: getattr(report, one.name) for one in fields(report)}


def tell(lines: list[str]) -> None:
    """Print the first lines and how many more there are."""
    for line in lines[:SHOWN]:
        console.print(f"    {line}", soft_wrap=True, markup=False)
    if len(lines) > SHOWN:
        console.print(f"    and {len(lines) - SHOWN} more")


def write_findings(output_dir: Path, name: str, content: Any, *, quiet: bool = False) -> Path:
    """Write what an action found as JSON and return the file."""
    path = output_dir / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    write_result(path, content)
    if not quiet:
        console.print(f"    report: {path}", soft_wrap=True)
    return path
