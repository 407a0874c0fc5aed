"""Progress bars on terminals; elsewhere one line a finished step, and one whenever it was silent for long."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

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
LINE_S = 10.0  # longest silence where there is no terminal: a log that stands still looks like a hang


class _Told(Console):
    """Remembers when something was said last."""

    said = time.monotonic()

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        self.said = time.monotonic()


@dataclass(eq=False)
class _Step:
    description: str
    done: int = 0
    total: int | None = None
    started: float = field(default_factory=time.monotonic)

    def update(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    def __str__(self) -> str:
        far = "" if self.total is None else f" {self.done}/{self.total},"
        return f"  {self.description:<52}{far} {time.monotonic() - self.started:.0f} s so far"


console = _Told(stderr=True, highlight=False, quiet=not is_main_process())
_running: list[_Step] = []  # the innermost is the last
_bar = threading.Lock()


@contextlib.contextmanager
def busy(description: str) -> Iterator[OnProgress]:
    """Say where the block is whenever nothing was said for `LINE_S` seconds and stderr is no terminal.

    Yields:
        A callback that takes (done, total).
    """
    step, ended = _Step(description), threading.Event()
    _running.append(step)
    if len(_running) == 1 and not console.is_terminal and not console.quiet:
        console.said = time.monotonic()
        threading.Thread(target=_pulse, args=(ended,), name="pulse", daemon=True).start()
    try:
        yield step.update
    finally:
        ended.set()
        _running.remove(step)


def _pulse(ended: threading.Event) -> None:
    # Half a second early, and looking as often: imports and matrix products keep other threads waiting.
    while not ended.wait(min(0.5, LINE_S / 2)):
        innermost = _running[-1:]
        if innermost and time.monotonic() - console.said >= LINE_S - 1.5:
            console.print(str(innermost[0]), soft_wrap=True, markup=False)


@contextlib.contextmanager
def progress(description: str) -> Iterator[OnProgress]:
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
    shown = _bar.acquire(blocking=False)  # by the first of several threads: a terminal has room for one
    hidden = not shown or not console.is_terminal
    bars = Progress(*columns, console=console, transient=True, disable=hidden)
    try:
        with busy(description) as update, bars as bar:
            task = bar.add_task(description, total=None)

            def both(done: int, total: int) -> None:
                update(done, total)
                bar.update(task, completed=done, total=total)

            yield both
    finally:
        if shown:
            _bar.release()
    console.print(f"  {description:<52} {time.perf_counter() - started:7.1f} s")
