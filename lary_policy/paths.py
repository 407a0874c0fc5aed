"""Where things lie on disk, and the guard that keeps paths inside their root."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib
import io
import json
import os
import pkgutil
import re
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import yaml

from lary_policy.errors import ConfigError, DatasetError, LaryPolicyError, StoreError, UnsafePathError

_TEMPORARY = re.compile(r"\..+\.tmp-[a-z0-9_]{8}(\.\w+)?")  # names of unfinished files of `atomic_write`
_SWEPT: set[Path] = set()
SEAL = "lary_sha256"  # in JSON files of ours: the digest of all else in them
MAX_JSON_BYTES = 1 << 28  # descriptions of datasets of a million episodes are a tenth of it


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
        fix="Install the package again: pip install --force-reinstall --no-deps <its clone or wheel>.",
    )


def choices(group: str) -> tuple[str, ...]:
    """Return the names of a config group in alphabetical order: its YAML files that do not start with `_`."""
    return tuple(sorted(p.stem for p in (configs_dir() / group).glob("[!_]*.yaml")))


def import_modules(package: str, *, packages: bool = False) -> None:
    """Import every module of a package, so that what they register is known; its `packages` too if asked."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if packages or not module.ispkg:
            importlib.import_module(f"{package}.{module.name}")


def resolve_inside(root: Path, relative: str | Path) -> Path:
    """Resolve `relative` below `root`, following symlinks.

    Raises:
        UnsafePathError: The path is absolute, contains `..` or ends outside `root`.
    """
    path = Path(relative)
    try:
        resolved = (root / path).resolve()
    except (OSError, RuntimeError):  # links that lead to themselves
        resolved = Path("/")
    # What a resolved path lies in is resolved already: the root need not be, which takes as long.
    inside = resolved.is_relative_to(root) or resolved.is_relative_to(root.resolve())
    if path.is_absolute() or ".." in path.parts or not inside:
        raise UnsafePathError(
            expected=f"a path inside {root}",
            got=f"'{relative}'",
            fix="Use a path relative to the dataset root, without '..' and without links that leave it.",
        )
    return resolved


def visible_files(folder: Path, pattern: str) -> list[Path]:
    """Return what matches a pattern below a folder, in order, without hidden (perhaps unfinished) files."""
    found = ((path, path.relative_to(folder).parts) for path in folder.glob(pattern))
    return sorted(path for path, parts in found if not any(part.startswith(".") for part in parts))


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[tuple[io.BufferedReader, os.stat_result]]:
    """Open a file for reading and yield it with what the file system says of it.

    A pipe or a device is refused instead of waited for.

    Raises:
        OSError: It is missing, no regular file, or not readable.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123  # of a descriptor
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "no regular file")
        yield file, facts


def read_regular(path: Path, limit_bytes: int) -> bytes:
    """Read a whole file.

    Raises:
        OSError: It is missing, no regular file, not readable, or larger than the limit.
    """
    with open_regular(path) as (file, facts):
        if facts.st_size > limit_bytes:
            raise OSError(errno.EFBIG, f"{facts.st_size} bytes, of at most {limit_bytes}")
        return file.read()


@contextlib.contextmanager
def foreign_file(
    what: str, path: Path, fix: str, *, error: type[LaryPolicyError] = DatasetError
) -> Iterator[None]:
    """The edge around a reader of a file that others wrote: whatever is raised inside is one named error.

    Libraries raise what they like on damaged input (`TokenError`, `RecursionError`, `zlib.error`, ...), so
    nothing is listed here. Errors of this package pass as they are.

    Args:
        what: What the file should be, e.g. `a numeric .npy array`.
        path: The file, for the message.
        fix: What to do about it.
        error: Kind of the error.
    """
    try:
        yield
    except LaryPolicyError:
        raise
    except Exception as found:
        if isinstance(found, FileNotFoundError):
            reason = "no such file"
        elif isinstance(found, OSError) and found.strerror:
            reason = found.strerror
        else:
            reason = f"{type(found).__name__}: {found}".split("\n")[0][:300]
        raise error(expected=f"{what} at {path}", got=reason, fix=fix) from found


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it only if the block succeeds.

    Raises:
        StoreError: The disk is full or not writable; the previous file, if any, is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep_temporaries(path.parent)
        handle, name = _locked_temporary(path)
    except OSError as error:
        raise _disk_error(path, error) from error
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
        os.close(handle)


def _locked_temporary(path: Path) -> tuple[int, str]:
    """Make the unfinished file of `path` and hold its lock: handle and name.

    Between making and locking it another process may take it for left over and remove it: then once more.
    """
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.tmp-", suffix=path.suffix, dir=path.parent)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.fstat(handle).st_nlink > 0
        except BlockingIOError:
            held = False
        except OSError:  # a file system without locks, where nothing is ever taken for left over
            return handle, name
        if held:
            return handle, name
        os.close(handle)


def sweep_temporaries(folder: Path, *, again: bool = False, levels: int = 0) -> None:
    """Remove what killed processes left of `atomic_write` in a folder; what is being written stays.

    Args:
        folder: Where to look; once in the life of a process.
        again: Look again.
        levels: Of folders below it to look into, too.
    """
    if folder in _SWEPT and not again:
        return
    _SWEPT.add(folder)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                if levels and entry.name[0] != ".":
                    sweep_temporaries(Path(entry.path), again=again, levels=levels - 1)
            elif _TEMPORARY.fullmatch(entry.name):
                path = Path(entry.path)
                with contextlib.suppress(OSError), path.open("rb") as file:  # or another process was faster
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
                    path.unlink()


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

    The lock ends with the process, however that ends, and the file it may leave is no hindrance. Folders that
    machines share must support `flock` (NFS does from version 4 on): a mere file would outlive its machine.

    Raises:
        StoreError: The folder is not writable, or its file system has no locks.
    """
    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            from lary_policy.console import console

            console.print(f"    another process makes {path.stem.lstrip('.')}: waiting for its result")
            lock.acquire()
        if isinstance(lock, filelock.SoftFileLock):  # what it becomes where there is no flock
            lock.release()
            raise OSError(errno.ENOSYS, "no flock")
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


def plain_name(what: str, text: str, error: type[LaryPolicyError] = UnsafePathError) -> str:
    """Return a text that is to name a file or folder; an error where it would lead elsewhere or be hidden.

    It has no slash, starts with no dot, and has printable characters only: others break lines of terminals
    and tables.
    """
    if text != Path(text).name or text[:1] in ("", ".") or not text.isprintable():
        raise error(
            expected=f"{what} as a plain name, without slashes, a dot in front or control characters",
            got=repr(text),
            fix=f"Write {safe_name(text).strip('.-') or 'first-try'}, for example.",
        )
    return text


def safe_name(text: str) -> str:
    """Return a text as the name of a file: names of own encoders have colons, hub ids have slashes."""
    return re.sub(r"[^\w.+-]+", "-", text)


def is_vacant(path: Path) -> bool:
    """Return whether nothing is at `path`, or an empty folder."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def _disk_error(path: Path, error: OSError) -> StoreError:
    wanted = "room and permission to write"
    fix = (
        "Free disk space or choose another output folder, then start the same command again: finished parts "
    )
    fix += "are kept."
    if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
        wanted = "a file system with locks (flock) for"
        fix = "Mount it with them (Lustre: the option flock), or choose another output folder."
    got = f"{type(error).__name__}: {error.strerror or error}"
    return StoreError(expected=f"{wanted} {path}", got=got, fix=fix)


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; ValueError also where an object has a key twice: nobody knows which was meant."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            _require_once([name for name, _ in pairs])
        return found

    return json.loads(text, object_pairs_hook=once)


class _OnceLoader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        _require_once([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        return node


def parse_yaml(text: str) -> Any:
    """Parse YAML of plain values; ValueError where a mapping has a key twice, as for `parse_json`."""
    return yaml.load(text, Loader=_OnceLoader)


def _require_once(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(f"the key '{Counter(names).most_common(1)[0][0]}' twice")


def json_sha256(value: Mapping[str, Any]) -> str:
    """Return the digest (64 hex digits) of a JSON object, without what it says of it itself (`SEAL`)."""
    rest = {name: one for name, one in value.items() if name != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, value: Any, *, seal: bool = False) -> None:
    """Write JSON atomically.

    Args:
        path: The file.
        value: Its content.
        seal: Whether an object also says the digest of itself, so that `read_json` finds any change of it.

    Raises:
        StoreError: The disk is full or not writable.
    """
    text = json.dumps(value, indent=1)
    if seal:
        read = json.loads(text)  # the digest is of what will be read: keys are text, tuples lists
        text = json.dumps({**read, SEAL: json_sha256(read)}, indent=1)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(
    path: Path,
    *,
    sealed: bool = False,
    error: type[LaryPolicyError] = DatasetError,
    fix: str = "Restore the file, or write it anew.",
    what: str = "a JSON object",
) -> dict[str, Any]:
    """Read a JSON object, without its digest of itself.

    Args:
        path: The file.
        sealed: Whether it must hold that digest; a digest that is there must always be right.
        error: Kind of the error.
        fix: What to do about it.
        what: What it should hold, in words.

    Raises:
        LaryPolicyError: Of that kind: the file is missing, holds no JSON object, or not the one that was
            written.
    """
    with foreign_file(what, path, fix, error=error):
        value = parse_json(read_regular(path, MAX_JSON_BYTES).decode("utf-8"))
        if not isinstance(value, dict):
            raise error(expected=f"a JSON object at {path}", got=str(value)[:200], fix=fix)
        stated = value.pop(SEAL, None)
        if (stated is not None or sealed) and stated != json_sha256(value):
            got = f"no {SEAL}" if stated is None else f"another one: {SEAL} is not that of its content"
            raise error(expected=f"the JSON object that was written to {path}", got=got, fix=fix)
    return value
