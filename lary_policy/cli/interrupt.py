"""Ctrl-C ends a command within two seconds, whatever it is in the middle of, and says how to go on."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence

PATIENCE_S = 1.2  # for Python to leave its blocks in order; what is written is written whole or not at all


def how_to_go_on(arguments: Sequence[str]) -> str:
    """Return what a person reads who stopped a command."""
    command = shlex.join(["lary", *arguments])
    return f"\nlary: stopped. Finished parts are kept; to go on, type the same again:\n  {command}"


@contextlib.contextmanager
def prompt_interrupts(message: str) -> Iterator[None]:
    """End the process soon after SIGINT even inside a call that Python cannot leave, as a long product.

    The signal wakes a thread as soon as it arrives: Python's own handler waits for the main thread's next
    instruction. Worker processes are ended with it. Only the main thread can ask for this; others go without.

    Args:
        message: Printed when the process had to be ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wakes, woken = socket.socketpair()
    woken.setblocking(False)
    before = signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    ended = threading.Event()
    threading.Thread(target=_watch, args=(wakes, ended, message), name="interrupts", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        woken.close()  # the thread reads the end and returns


def _watch(wakes: socket.socket, ended: threading.Event, message: str) -> None:
    with wakes:
        while signal.SIGINT not in (told := wakes.recv(64)):
            if not told:
                return
        time.sleep(PATIENCE_S)
        if not ended.is_set():  # else it was said, and threads or exit functions still hold the process
            print(message, file=sys.stderr, flush=True)
        for worker in multiprocessing.active_children():
            worker.kill()
        os._exit(128 + signal.SIGINT)
