"""`lary data verify`: read everything under an output folder and say what is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lary_policy.console import console, progress
from lary_policy.data import DEFAULT_TIMEOUT_S, IntegrityReport
from lary_policy.data.simulated import verify_dataset
from lary_policy.errors import DatasetError
from lary_policy.latents import verify_store
from lary_policy.stages.cells import write_json

SHOWN = 20  # problems printed of each folder; the report file has all of them


def verify_outputs(output_dir: Path, *, workers: int = 2, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
    """Check every dataset and latent store of an output folder and write `verify.json`; True if all is well.

    Args:
        output_dir: The folder.
        workers: Processes that read files of datasets; 0 reads them here, without time limit.
        timeout_s: Seconds for one of these files.

    Raises:
        DatasetError: There is nothing to check.
    """
    cache = output_dir / "cache"
    datasets = sorted(p.parent for p in cache.glob("data/*/dataset.json"))
    stores = sorted(p.parent for p in cache.glob("latents/*/store.json"))
    if not datasets and not stores:
        raise DatasetError(
            expected=f"datasets or latent stores under {cache}",
            got="none",
            fix="Run `lary data` first, or pass output_dir=<folder>.",
        )
    dataset = partial(verify_dataset, workers=workers, timeout_s=timeout_s)
    reports = [check_folder(folder, dataset) for folder in datasets]
    reports += [check_folder(folder, verify_store) for folder in stores]
    rows = [{"root": r.root, "checked": r.checked, "problems": r.problems} for r in reports]
    path = output_dir / f"verify-{time.strftime('%Y%m%d-%H%M%S')}.json"
    write_json(path, rows)
    problems = sum(len(r.problems) for r in reports)
    console.print(f"{len(reports)} folders checked, {problems} problems; all of them: {path}", soft_wrap=True)
    return problems == 0


def check_folder(
    folder: Path, verify: Callable[..., IntegrityReport], *, label: str | None = None
) -> IntegrityReport:
    """Run a check of a folder and print what it found.

    Args:
        folder: What is checked.
        verify: Called with the folder and `on_progress`.
        label: How it is called while it runs; None for the end of its path.
    """
    with progress(f"verify {label or f'{folder.parent.name}/{folder.name}'}") as update:
        report = verify(folder, on_progress=update)
    counts = ", ".join(f"{number} {name}" for name, number in report.checked.items())
    console.print(f"    {'ok' if report.ok else 'WRONG'}: {counts}, {len(report.problems)} problems")
    for problem in report.problems[:SHOWN]:
        console.print(f"    {problem.item}: {problem.reason}", soft_wrap=True, markup=False)
    if len(report.problems) > SHOWN:
        console.print(f"    and {len(report.problems) - SHOWN} more")
    return report
