"""One process at a time: no job of a sweep computes what another one is computing."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from lary_policy.console import console
from lary_policy.errors import StoreError


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; wait for it where another process does.

    The lock ends with the process, however that ends. Folders that several machines share must support
    `flock` (NFS does from version 4 on).

    Raises:
        StoreError: The folder is not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise StoreError(
            expected=f"a writable folder {path.parent}",
            got=f"{error.strerror}",
            fix="Pass output_dir=<a folder you may write to>.",
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"    waiting for another process that holds {path.stem}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
