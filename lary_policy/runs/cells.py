"""Content-addressed results on disk: a finished cell is never computed again, nor twice at once."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lary_policy.console import OnProgress
from lary_policy.data import CHECKSUMS_FILE, IntegrityReport, verify_files, write_checksums
from lary_policy.errors import ConfigError, LaryPolicyError, StoreError
from lary_policy.heads.training import agree, first_alone, wait_for_all
from lary_policy.machine import is_main_process
from lary_policy.paths import (
    MAX_JSON_BYTES,
    SEAL,
    exclusive,
    parse_json,
    plain_name,
    read_json,
    read_regular,
    safe_name,
    visible_files,
    write_json,
)
from lary_policy.types import Quarantined

RESULT, RUN_FILE = "result.json", "run.json"
UNKNOWN = "unknown"  # commit of a cell that no run of its folder can have computed
Start = tuple[float, str, bool]  # of a run: seconds since 1970, commit, whether it computes
OF_OLDER = (
    "An earlier version wrote this cell, without checksums: it is not checked, and no command reads it. What "
    "is still asked for is computed again; delete the folder to free its disk space."
)
# What an unfinished cell goes on from; left where a process was killed right after it had finished.
UNFINISHED = ("training.safetensors", "episodes.partial.json")


def plain(value: Any) -> Any:
    """Turn dataclasses, tuples and paths into what YAML and JSON know."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return value if isinstance(value, str | int | float | None) else str(value)


def digest(*parts: Any) -> str:
    """Return 12 hex digits of the sha256 of the parts' canonical JSON."""
    return hashlib.sha256(json.dumps(plain(parts), sort_keys=True).encode()).hexdigest()[:12]


def write_result(path: Path, value: Any) -> None:
    """Write plain data as JSON, atomically; an object says the digest of itself, see `read_json`."""
    write_json(path, plain(value), seal=isinstance(value, dict))


@dataclass(frozen=True)
class Cell:
    """One unit of work: a folder named after its inputs, done when it holds `result.json`.

    Attributes:
        stage: `data`, `extract`, `probe` or `rollout`.
        label: Readable part of the name, e.g. `reach-dinov2-small-pair-absolute`.
        key: Digest of everything the result depends on.
        root: The cache folder.
    """

    stage: str
    label: str
    key: str
    root: Path

    @classmethod
    def at(cls, folder: Path) -> Cell:
        """Return the cell of a folder `<root>/<stage>/<label>-<key>`."""
        label, _, key = folder.name.rpartition("-")
        return cls(folder.parent.name, label, key, folder.parents[1])

    @property
    def folder(self) -> Path:
        """Where the cell's files lie."""
        return self.root / self.stage / f"{safe_name(self.label)}-{self.key}"

    @property
    def done(self) -> bool:
        """Whether the result is complete, and not of an earlier version."""
        return (self.folder / RESULT).is_file() and not self.is_older

    @property
    def is_older(self) -> bool:
        """Whether an earlier version wrote it: results came without digests then, and none is read."""
        path = self.folder / RESULT
        if (self.folder / CHECKSUMS_FILE).exists():
            return False
        with contextlib.suppress(Exception):  # damage is no matter of age
            found = parse_json(read_regular(path, MAX_JSON_BYTES))
            return isinstance(found, dict) and SEAL not in found
        return False

    def result(self) -> dict[str, Any]:
        """Read the result.

        Raises:
            StoreError: The file is no JSON object, or not the one that was written.
        """
        return _read_result(self.folder)

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Publish the result atomically and return it as every later run will read it.

        Before it the checksums of what else lies in the folder are written, for `verify_cell`.
        """
        write_checksums(self.folder, without=(RESULT, *UNFINISHED))
        write_result(self.folder / RESULT, result)
        return self.result()

    def compute(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the finished result, or compute and publish it in one process at a time.

        Another process that computes the same cell is waited for and its result taken. In several processes
        of a launcher only the first one works.
        """
        if agree(self.done):
            return self.result()

        def alone() -> dict[str, Any]:
            with self.lock():
                return self.result() if self.done else self.finish(work())

        return first_alone(alone, self.result)

    def compute_together(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Like `compute`, but all processes of a launcher work; the first one's answer is the result."""
        if agree(self.done):
            return self.result()
        with self.lock() if is_main_process() else contextlib.nullcontext():
            if not agree(self.done):
                result = work()
                if is_main_process():
                    self.finish(result)
            wait_for_all()
        return self.result()

    def commit(self, starts: Sequence[Start]) -> str:
        """Return the commit of the computing run that had been started last when the result was written."""
        at = (self.folder / RESULT).stat().st_mtime
        known = [(start, commit) for start, commit, computes in starts if computes and start <= at]
        return max(known, default=(0.0, UNKNOWN))[1]

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the cell while a block runs, see `lary_policy.paths.exclusive`."""
        return exclusive(self.root / "locks" / f"{self.stage}-{self.folder.name}.lock")


def starts_of(path: Path) -> list[Start]:
    """Return the starts of a run that its `run.json` tells; none of a file that cannot be read."""
    try:
        raw = read_json(path)
        if "starts" in raw:
            return [(float(at), str(commit), bool(computes)) for at, commit, computes in raw["starts"]]
        # Written before starts were: a report, which computes nothing, is told by its folder's usual name.
        computes = not path.parent.name.startswith("report")
        return [(path.stat().st_mtime, str(raw["environment"]["git"]), computes)]
    except (LaryPolicyError, OSError, KeyError, TypeError, ValueError):
        return []


def every_start(output_dir: Path) -> list[Start]:
    """Return the starts of all runs of an output folder."""
    return [start for path in output_dir.glob(f"*/{RUN_FILE}") for start in starts_of(path)]


def _read_result(folder: Path) -> dict[str, Any]:
    fix = f"Delete {folder} and start the command again."
    return read_json(folder / RESULT, sealed=True, error=StoreError, fix=fix)


def verify_cell(folder: Path, *, on_progress: OnProgress | None = None) -> IntegrityReport:
    """Compare all files of a finished cell with what was written; one of an earlier version cannot be.

    Args:
        folder: Folder of the cell.
        on_progress: Called with (1, 1) in the end.
    """
    if Cell.at(folder).is_older:
        count = sum(p.is_file() for p in visible_files(folder, "**/*"))
        return IntegrityReport(folder, {"files of an earlier version": count}, (), (OF_OLDER,))
    report = verify_files(folder, without=(RESULT, *UNFINISHED), on_progress=on_progress)
    try:
        _read_result(folder)
    except StoreError as error:
        found = Quarantined(RESULT, str(error), "cells")
        return dataclasses.replace(report, problems=(found, *report.problems))
    return report


def run_folder(output_dir: Path, name: str | None, verb: str) -> Path:
    """Return the folder of a run: the named one, or a new one with the date that no other run has.

    Raises:
        ConfigError: The name is no plain one, or the folder a link or of another kind of run.
        StoreError: The folder is not writable, or `<output_dir>/latest` is no link.
    """
    link = output_dir / "latest"
    if link.exists() and not link.is_symlink():
        raise StoreError(
            expected=f"a link, or nothing, at {link}", got="a file or folder", fix=f"Rename {link}."
        )
    stem = plain_name("run", name, ConfigError) if name else f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = output_dir / (stem if number == 1 else f"{stem}_{number}")
            try:
                folder.mkdir(exist_ok=name is not None)
            except FileExistsError:
                continue  # of another run that started in the same second
            break
        check_run_folder(folder, verb)
        return folder
    except OSError as error:
        raise StoreError(
            expected=f"a writable folder {output_dir}",
            got=f"{error.strerror or error}",
            fix="Pass output_dir=<a folder you may write to>.",
        ) from error


def check_run_folder(folder: Path, verb: str) -> None:
    """Refuse a folder that lies elsewhere, or whose `run.json` says that it holds the other kind of run.

    Raises:
        ConfigError: It is such a folder.
    """
    got = "a link" if folder.is_symlink() else ""
    if not got and (folder / RUN_FILE).is_file():
        with contextlib.suppress(LaryPolicyError, OSError):  # a damaged one is written anew
            theirs, ours = "lam" in read_json(folder / RUN_FILE), verb == "lam"
            if theirs != ours:
                got = "a latent action model" if theirs else "the run of another verb"
    if got:
        raise ConfigError(
            expected=f"a new folder {folder}, or one of an earlier `lary {verb}`",
            got=got,
            fix=f"Pass run=<another name than {folder.name}>.",
        )


def point_latest(output_dir: Path, run: Path) -> None:
    """Make `<output_dir>/latest` point at a run."""
    link, temporary = output_dir / "latest", output_dir / f".latest.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(run.name)
    temporary.replace(link)
