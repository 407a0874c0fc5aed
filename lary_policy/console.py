"""Progress bars on terminals; elsewhere one line a finished step, and one whenever it was silent for long."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
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


@dataclass(eq=False)
class Tally:
    """How many steps a run has, how many are done, and about how long the rest takes.

    Steps are of a kind, the first word of their description. What a step costs is the time between two ends:
    steps that run side by side are not counted twice.

    Attributes:
        planned: Steps of each kind.
    """

    planned: dict[str, int] = field(default_factory=dict)
    _done: Counter[str] = field(default_factory=Counter)
    _computed: Counter[str] = field(default_factory=Counter)
    _spent: Counter[str] = field(default_factory=Counter)
    _last: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def far(self) -> str:
        """Say how many steps are done, e.g. `3 of 27`."""
        done = self._done.total()
        return f"{done} of {max(done, sum(self.planned.values()))}"

    @property
    def ends(self) -> bool:
        """Whether the report alone is left."""
        left = sum(self.planned.values()) - self._done.total()
        return "report" in self.planned and left <= 1

    @property
    def computed(self) -> int:
        """How many of the finished steps this run computed itself."""
        return self._computed.total()

    def count(self, description: str, *, computed: bool = True) -> None:
        """Count a finished step; one that an earlier run had finished cost nothing."""
        kind = description.partition(" ")[0]
        with self._lock:  # heads end in threads of their own
            now = time.monotonic()
            self._done[kind] += 1
            if computed:
                self._computed[kind] += 1
                self._spent[kind] += now - self._last  # type: ignore[assignment]  # Counter of seconds
            self._last = now

    def left(self) -> str:
        """Say about how long the rest takes; kinds that were not seen cost what the seen ones did."""
        if not self._computed:
            return ""
        usual = sum(self._spent.values()) / self._computed.total()
        seconds = 0.0
        for kind, count in self.planned.items():
            seen = self._computed[kind]
            seconds += max(0, count - self._done[kind]) * (self._spent[kind] / seen if seen else usual)
        return f", about {seconds:.0f} s left" if seconds < 100 else f", about {seconds / 60:.0f} min left"


_tallies: list[Tally] = []


@contextlib.contextmanager
def counted() -> Iterator[Tally]:
    """Number the steps that end inside the block: `[3 of 27] probe ...  12.3 s, about 4 min left`."""
    tally = Tally()
    _tallies.append(tally)
    try:
        yield tally
    finally:
        _tallies.remove(tally)


def kept(description: str) -> None:
    """Count a step that an earlier run had finished."""
    for tally in _tallies[-1:]:
        tally.count(description, computed=False)


@contextlib.contextmanager
def progress(description: str, *, step: bool = True) -> Iterator[OnProgress]:
    """Show a bar while the block runs and print its seconds afterwards.

    Args:
        description: What is done.
        step: Whether it is one of the steps that `counted` numbers, or the end of one.

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
    number = left = ""
    for tally in _tallies[-1:] if step else ():
        tally.count(description)
        number, left = f"[{tally.far}] ", tally.left()
    took = f"{time.perf_counter() - started:7.1f} s"
    console.print(f"  {f'{number}{description}':<62} {took}{left}", markup=False, soft_wrap=True)
