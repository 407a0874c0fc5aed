"""Devices by name, and Warp's launches in the order of torch's stream, recorded once as a CUDA graph."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import cache

import torch
import warp as wp

from lary_policy.errors import SimulationError, UnknownNameError

_KINDS = ("cpu", "cuda", "cuda:0", "cuda:1")  # examples for the message; any index that exists will do
_NO_DRIVER = b"Warp CUDA warning: Could not find or load the NVIDIA CUDA driver"


def torch_device(name: str | torch.device) -> torch.device:
    """Return the device called `cpu`, `cuda` (torch's current one) or, with an index, `cuda:1`.

    Raises:
        UnknownNameError: Another kind of device.
        SimulationError: CUDA, or more CUDA devices, asked for than there are.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UnknownNameError("device", str(name), _KINDS) from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UnknownNameError("device", str(name), _KINDS)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        raise SimulationError(
            expected=f"the CUDA device '{name}'", got=f"{count} CUDA devices", fix="Use device='cpu'."
        )
    return device if device.index is not None else torch.device("cuda", torch.cuda.current_device())


@cache
def init_warp() -> None:
    """Start Warp without its greeting, its report of every kernel module and its word on a missing driver."""
    wp.config.log_level = wp.LOG_WARNING
    quiet = contextlib.nullcontext() if torch.cuda.is_available() else _without_line(_NO_DRIVER)
    with quiet:
        wp.init()


@contextlib.contextmanager
def _without_line(text: bytes) -> Iterator[None]:
    """Drop lines with `text` that C code writes to stderr; Warp has no setting for this one."""
    with tempfile.TemporaryFile() as spool:
        stderr = os.dup(2)
        os.dup2(spool.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        spool.seek(0)
        for line in spool:
            if text not in line:
                os.write(2, line)


class _SharedCpu:
    """The CPU as Warp's default device while any thread is inside."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._scope: wp.ScopedDevice | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._scope is None:
                self._scope = wp.ScopedDevice("cpu")
                self._scope.__enter__()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._scope is not None:
                self._scope.__exit__(None, None, None)
                self._scope = None


_CPU = _SharedCpu()


@contextlib.contextmanager
def launches_on(device: torch.device) -> Iterator[None]:
    """Let Warp allocate and launch on `device`, on CUDA in the order of torch's current stream there.

    Warp's default device is one for the whole process. Threads that launch on the CPU share it: the last to
    leave puts it back. On CUDA, enter this in the thread that starts others.
    """
    init_warp()
    if device.type == "cpu":
        with _CPU:
            yield
    else:
        with wp.ScopedStream(_warp_stream(torch.cuda.current_stream(device))):
            yield


@cache
def _warp_stream(stream: torch.cuda.Stream) -> wp.Stream:
    """Return Warp's object for a stream of torch, one for good: Warp forgets the stream when one is freed."""
    return wp.stream_from_torch(stream)


class LaunchGraph:
    """A fixed sequence of launches: recorded as a CUDA graph after its first call, or launched each time.

    `launch` makes them on `device` and reads and writes the same arrays in every call; `record` needs CUDA.
    """

    def __init__(self, launch: Callable[[], None], device: torch.device, *, record: bool) -> None:
        self._launch, self._device, self._record = launch, device, record
        self._graph: wp.Graph | None = None

    @property
    def recorded(self) -> bool:
        """Whether later calls replay a graph."""
        return self._graph is not None

    def __call__(self) -> None:
        """Launch on torch's current stream; returns before the work is done on CUDA."""
        if self._graph is not None:
            self._replay(self._graph)
            return
        with launches_on(self._device):  # loads and compiles the kernels, which a recording must not do
            self._launch()
        if self._record:
            self._graph = self._recording()

    def _recording(self) -> wp.Graph:
        """Record on a stream of its own, because torch's default stream cannot be recorded."""
        stream = wp.Stream(wp.device_from_torch(self._device))
        with wp.ScopedStream(stream, sync_enter=False), wp.ScopedCapture(stream=stream) as capture:
            self._launch()
        return capture.graph

    def _replay(self, graph: wp.Graph) -> None:
        # The device must be current: the handle of torch's default stream is 0 on every device.
        with wp.ScopedDevice(wp.device_from_torch(self._device)):
            wp.capture_launch(graph, stream=_warp_stream(torch.cuda.current_stream(self._device)))


def can_record(device: torch.device) -> bool:
    """Return whether graphs of simulation steps can be recorded: they allocate, which needs a memory pool."""
    init_warp()
    return device.type == "cuda" and bool(wp.is_mempool_enabled(wp.device_from_torch(device)))
