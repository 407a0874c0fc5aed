"""Progress bars on terminals, one line a finished step elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lary_policy.machine import is_main_process

OnProgress = Callable[[int, int], None]  # called with (done, of how many)
console = Console(stderr=True, highlight=False, quiet=not is_main_process())


@contextlib.contextmanager
def progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar while the block runs and print its seconds afterwards.

    Yields:
        A callback that takes (done, total).
    """
    columns = (
        TextColumn("{task.description:<52}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    started = time.perf_counter()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
    console.print(f"  {description:<52} {time.perf_counter() - started:7.1f} s")
