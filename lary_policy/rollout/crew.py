"""Waves of episodes in several processes; results come in the order in which one process has them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from multiprocessing.queues import SimpleQueue
from types import TracebackType

from lary_policy.errors import SimulationError
from lary_policy.heads.training import everyones
from lary_policy.machine import StopEvent, leave_if_asked, leave_when, process_count, process_rank

_GPUS = "CUDA_VISIBLE_DEVICES"


class Crew:
    """Processes of this machine that start when there is something to do and end with the block.

    Args:
        count: How many.
        device: Of the run: under `cuda` each sees one GPU alone, the next one in turn.
        modules: Imported once for all of them.
    """

    def __init__(self, count: int, device: str, modules: Sequence[str] = ()) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(modules))
        self.count, self._stop = count, context.Event()
        gpus = context.SimpleQueue()
        shown = visible_gpus() if device == "cuda" else [None]
        for number in range(count):
            gpus.put(shown[number % len(shown)])
        self._pool = ProcessPoolExecutor(count, context, _begin, (gpus, self._stop))

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def each[S, T](self, run: Callable[[S], T], batches: Sequence[S]) -> Generator[T]:
        """Yield what a function of a module makes of each batch, in their order, as soon as it is there.

        Whoever stops asking waits for batches that have been begun; an error or Ctrl-C asks them to leave.

        Raises:
            SimulationError: A process ended by itself.
        """
        made = [self._pool.submit(run, batch) for batch in batches]
        try:
            for one in made:
                yield _result(one)
        except GeneratorExit:
            raise
        except BaseException:
            self._stop.set()
            raise
        finally:
            for one in made:
                one.cancel()
            wait(made)


def _result[T](made: Future[T]) -> T:
    while True:
        try:
            return made.result(timeout=0.5)
        except TimeoutError:
            if made.done():
                raise  # its own
            leave_if_asked()
        except BrokenProcessPool as error:
            raise SimulationError(
                expected="processes that run episodes to their end",
                got="one that was killed or could not start",
                fix="Look whether memory ran out (fewer workers or num_worlds take less), then start the same"
                " command again: finished waves are kept. A script needs `if __name__ == '__main__':`.",
            ) from error


def visible_gpus() -> list[str | None]:
    """Return the GPUs that this process sees, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    shown = os.environ.get(_GPUS)
    return [*shown.split(",")] if shown else [str(number) for number in range(torch.cuda.device_count())]


def _begin(gpus: SimpleQueue[str | None], stop: StopEvent) -> None:
    """Begin a process of a crew: it ends with the one that started it, which alone minds Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gpu = gpus.get()
    if gpu is not None:
        os.environ[_GPUS] = gpu  # before anything asks CUDA
    leave_when(stop)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def by_ranks[S, T](run: Callable[[S], T], batches: Sequence[S]) -> Generator[T]:
    """Yield the same as `Crew.each` in all processes of a launcher, each of which does every n-th batch."""
    for first in range(0, len(batches), process_count()):
        place = first + process_rank()
        mine = [run(batches[place])] if place < len(batches) else []
        for made in everyones(mine):
            yield from made
