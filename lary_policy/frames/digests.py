"""Digests of files, computed once for each state of a file on disk and remembered, if asked, across runs."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from pathlib import Path

from lary_policy.errors import FrameFormatError
from lary_policy.paths import open_regular

State = tuple[int, int, int]  # size, time of the last change in ns, inode
REMEMBERED = 1 << 18  # digests in memory, 200 bytes each; the file on disk has no limit
_WRITTEN_AT_ONCE = 4096
# A file that changed less than this ago may change again without another time stamp: coarse file systems
# count whole seconds, and kernels stamp in steps of milliseconds.
_SETTLED_NS = 2_000_000_000
_READ_AT_ONCE = 1 << 18  # bytes, which is what `hashlib.file_digest` sets aside for every file
_CREATE = """
CREATE TABLE IF NOT EXISTS file_digests
(path TEXT PRIMARY KEY, size INT, mtime INT, inode INT, sha256 TEXT, seal TEXT)
"""


class DigestMemory:
    """Digests by path and state; in memory, and in an SQLite file that several processes may share."""

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[State, str]] = OrderedDict()
        self._new: dict[str, tuple[State, str]] = {}
        self._base = None if path is None else _open(path)

    def find(self, path: str, state: State) -> str | None:
        """Return the digest of a file in this state, if it is known."""
        with self._lock:
            known = self._known.get(path)
            if known is None and self._base is not None:
                with contextlib.suppress(sqlite3.Error):  # a damaged memory is none
                    row = self._base.execute(
                        "SELECT size, mtime, inode, sha256, seal FROM file_digests WHERE path = ?", (path,)
                    ).fetchone()
                    if row is not None and row[4] == _seal(path, row[:3], row[3]):
                        known = self._known[path] = (row[:3], row[3])
            return known[1] if known is not None and known[0] == state else None

    def keep(self, path: str, state: State, digest: str) -> None:
        """Remember the digest of a file, unless the file is so new that its state says little."""
        if time.time_ns() - state[1] < _SETTLED_NS:
            return
        with self._lock:
            self._known[path] = (state, digest)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            if self._base is not None:
                self._new[path] = (state, digest)
                if len(self._new) >= _WRITTEN_AT_ONCE:
                    self._write()

    def flush(self) -> None:
        """Write what is new to the file."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        if self._base is None or not self._new:
            return
        rows = [
            (path, *state, digest, _seal(path, state, digest)) for path, (state, digest) in self._new.items()
        ]
        with (
            contextlib.suppress(sqlite3.Error),
            self._base,
        ):  # a full disk costs time in the next run, no more
            self._base.executemany("INSERT OR REPLACE INTO file_digests VALUES (?, ?, ?, ?, ?, ?)", rows)
        self._new.clear()


def _seal(path: str, state: State, digest: object) -> str:
    """Return what tells an entry of the file as it was written: the file may be damaged like any other."""
    return hashlib.sha256(f"{path}{state}{digest}".encode()).hexdigest()[:16]


def _open(path: Path) -> sqlite3.Connection | None:
    """Open the file, anew where it is damaged; None where that is impossible."""
    for _ in range(2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            base = sqlite3.connect(path, timeout=30, check_same_thread=False)
            with base:
                base.execute(_CREATE)
        except sqlite3.DatabaseError:
            with contextlib.suppress(OSError):
                path.unlink()
        except OSError:
            return None
        else:
            return base
    return None


_memory = DigestMemory()


def remember_digests(path: Path | None) -> None:
    """Keep digests of files in a file from now on, so that a warm run reads none of them again.

    It is made if it is missing, and processes may share it; None stands for memory alone.
    """
    global _memory
    _memory.flush()
    _memory = DigestMemory(path)


@atexit.register
def _at_exit() -> None:
    _memory.flush()


def _state(facts: os.stat_result) -> State:
    return facts.st_size, facts.st_mtime_ns, facts.st_ino


def file_digest(path: Path, *, trust: bool = True) -> str:
    """Return the sha256 of a file, computed once for each state (size, time, inode) of the file on disk.

    Args:
        path: The file.
        trust: Whether a remembered digest will do; otherwise the file is read.

    Raises:
        FrameFormatError: It is missing, no regular file, or cannot be read.
    """
    name = str(path.absolute())
    try:
        if trust and os.access(name, os.R_OK) and (known := _memory.find(name, _state(path.stat()))):
            return known  # only a regular file has one
        with open_regular(path) as (file, facts):
            small = facts.st_size <= _READ_AT_ONCE
            hashed = hashlib.sha256(file.read()) if small else hashlib.file_digest(file, "sha256")
            found = hashed.hexdigest()
            _memory.keep(name, _state(facts), found)
            return found
    except OSError as error:
        raise FrameFormatError(
            expected=f"a file that can be read at {path}",
            got="no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error),
            fix="Restore the file; rows that use it are quarantined until then.",
        ) from error
