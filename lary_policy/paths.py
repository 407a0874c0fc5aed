"""Where things lie on disk, and the guard that keeps paths inside their root."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from lary_policy.errors import ConfigError, DatasetError, StoreError, UnsafePathError

# The file of encoders that no other file of the group names: own ones and those found by `auto:`.
NAMED_ENCODER = "_named"


def configs_dir() -> Path:
    """Return the folder of the Hydra groups: package data in a wheel, `configs/` in a checkout.

    Raises:
        ConfigError: Neither exists.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "configs", package.parent / "configs"):
        if (candidate / "embodiment").is_dir():
            return candidate
    raise ConfigError(
        expected="the configs folder beside the package",
        got=f"nothing under {package}",
        fix="Reinstall the package: pip install --force-reinstall lerobot_policy_lary.",
    )


def choices(group: str) -> tuple[str, ...]:
    """Return the names of a config group in alphabetical order: its YAML files that do not start with `_`."""
    return tuple(sorted(p.stem for p in (configs_dir() / group).glob("[!_]*.yaml")))


def import_modules(package: str) -> None:
    """Import every module of a package, so that what they register is known."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.ispkg:
            importlib.import_module(f"{package}.{module.name}")


def resolve_inside(root: Path, relative: str | Path) -> Path:
    """Resolve `relative` below `root`, following symlinks.

    Raises:
        UnsafePathError: The path is absolute, contains `..` or ends outside `root`.
    """
    path = Path(relative)
    resolved = (root / path).resolve()
    if path.is_absolute() or ".." in path.parts or not resolved.is_relative_to(root.resolve()):
        raise UnsafePathError(
            expected=f"a path inside {root}",
            got=f"'{relative}'",
            fix="Use a path relative to the dataset root, without '..' and without links that leave it.",
        )
    return resolved


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it only if the block succeeds.

    Raises:
        StoreError: The disk is full or not writable; the previous file, if any, is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise _disk_error(path, error) from error
    os.close(handle)
    umask = os.umask(0)
    os.umask(umask)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are private; results are as readable as any other
        temporary.replace(path)
    except OSError as error:
        raise _disk_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield the name of a hidden folder beside `path`; what the block makes there becomes `path` at the end.

    A block that fails or is stopped leaves nothing; a hidden folder that a killed process left is removed.

    Raises:
        StoreError: The disk is full or not writable, or `path` is not empty.
    """
    partial = path.parent / f".{path.name}.partial"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        yield partial
        partial.rename(path)
    except OSError as error:
        raise _disk_error(path, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; wait for it where another process does.

    The lock ends with the process, however that ends. Nothing is left behind but where a process was killed,
    and that is no hindrance. Folders that several machines share must support `flock` (NFS does from
    version 4 on).

    Raises:
        StoreError: The folder is not writable.
    """
    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            from lary_policy.console import console  # rich and torch, for this line alone

            console.print(f"    waiting for another process that holds {path.stem.lstrip('.')}")
            lock.acquire()
    except OSError as error:
        raise _disk_error(path, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone and makes anew
        lock.release()


def lock_beside(path: Path) -> Path:
    """Return the hidden file beside `path` that a process locks while it makes `path`."""
    return path.parent / f".{path.name}.lock"


def is_vacant(path: Path) -> bool:
    """Return whether nothing is at `path`, or an empty folder."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def _disk_error(path: Path, error: OSError) -> StoreError:
    return StoreError(
        expected=f"room and permission to write {path}",
        got=f"{type(error).__name__}: {error.strerror or error}",
        fix="Free disk space or choose another output folder, then start the same command again: "
        "finished parts are kept.",
    )


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically.

    Raises:
        StoreError: The disk is full or not writable.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DatasetError: The file is missing or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        value = f"{type(error).__name__}: {error}"
    if not isinstance(value, dict):
        raise DatasetError(
            expected=f"a JSON object in {path}",
            got=str(value)[:200],
            fix="Restore the file or write the dataset anew with `lary data`.",
        )
    return value
