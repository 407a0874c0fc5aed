"""A function over many files in several processes, each file with a time limit of its own."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from lary_policy.errors import ConfigError

# Imported once by the server that worker processes are forked from; importing torch takes seconds.
_PRELOAD = ["lary_policy.frames.video", "lary_policy.frames.frame"]


@dataclass(frozen=True)
class Failure:
    """Why there is no result for an item."""

    reason: str


@dataclass(frozen=True)
class TimedOut(Failure):
    """The item took longer than it may: its file, or the disk it is on, does not answer."""


def for_each[T, R](
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int,
    timeout_s: float,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, R | Failure]]:
    """Apply a function to every item and yield (position of the item, result) as they come.

    An item on which the function raises, takes too long or brings its process down has a `Failure` as
    result; the others are not touched by it.

    Args:
        function: Function of a module (it is pickled).
        items: What it is applied to.
        workers: Processes; with 0 all runs in this process and nothing is timed.
        timeout_s: Seconds after which the process of an item is killed.
        on_progress: Called with (items done, items in all) after each result was taken.

    Raises:
        ConfigError: There are less than 0 workers, or no time.
    """
    if workers < 0 or timeout_s <= 0:
        raise ConfigError(
            expected="workers >= 0 and timeout_s > 0",
            got=f"workers={workers}, timeout_s={timeout_s}",
            fix="Pass workers=2 timeout_s=30, for example.",
        )
    pool = [_Worker(function) for _ in range(min(workers, len(items)))]
    try:
        results = _dispatch(pool, items, timeout_s) if pool else _here(function, items)
        for done, result in enumerate(results, 1):
            yield result
            if on_progress is not None:
                on_progress(done, len(items))
    finally:
        for worker in pool:
            worker.stop()


def _here[T, R](function: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R | Failure]]:
    yield from ((i, _guarded(function, item)) for i, item in enumerate(items))


def _dispatch[T, R](
    pool: Sequence[_Worker[T, R]], items: Sequence[T], timeout_s: float
) -> Iterator[tuple[int, R | Failure]]:
    following = iter(range(len(items)))
    busy = [worker for worker in pool if worker.give(following, items)]
    while busy:
        deadline = min(worker.started_s for worker in busy) + timeout_s
        ready = wait([w.connection for w in busy], timeout=max(0.0, deadline - time.monotonic()))
        now = time.monotonic()
        for worker in list(busy):
            if worker.connection in ready:
                yield worker.position, worker.result()
            elif now - worker.started_s > timeout_s:
                worker.restart()
                yield worker.position, TimedOut(f"took longer than {timeout_s:g} s")
            else:
                continue
            if not worker.give(following, items):
                busy.remove(worker)


class _Worker[T, R]:
    """A process that works on one item at a time."""

    def __init__(self, function: Callable[[T], R]) -> None:
        self._function = function
        self.position, self.started_s = -1, 0.0
        self._start()

    def give(self, following: Iterator[int], items: Sequence[T]) -> bool:
        """Send the next item; False if there is none left."""
        position = next(following, None)
        if position is None:
            return False
        self.position = position
        self.connection.send(items[position])
        self.started_s = time.monotonic()
        return True

    def result(self) -> R | Failure:
        """Receive what the function made of the item; a dead process is replaced by a new one."""
        try:
            answer: R | Failure = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode
            self.restart()
            return Failure(f"the process that read it ended with exit code {code}")
        return answer

    def restart(self) -> None:
        """Kill the process and start another."""
        self.stop()
        self._start()

    def stop(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOAD)
        self.connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_serve, args=(self._function, theirs), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            self.connection.recv()  # it is ready: the seconds of its imports are not those of a file
        except EOFError as error:
            raise ConfigError(
                expected="processes that can import what this one runs",
                got="one that ended while it started",
                fix="Put the calling script's code under `if __name__ == '__main__':`, or pass workers=0.",
            ) from error


def _serve[T, R](function: Callable[[T], R], connection: Connection) -> None:
    """Answer items until the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this one
    connection.send(None)
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        connection.send(_guarded(function, item))


def _guarded[T, R](function: Callable[[T], R], item: T) -> R | Failure:
    try:
        return function(item)
    except Exception as error:  # a damaged file must not end the check of all others, whatever it raises
        return Failure(f"{type(error).__name__}: {error}")
