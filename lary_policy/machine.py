"""What this machine offers a run: device, threads, processes, precision; torch is imported when used."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.metadata
import importlib.util
import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from packaging.requirements import Requirement

from lary_policy.errors import ConfigError, DeviceError

if TYPE_CHECKING:
    import torch


_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
# What extras of the distribution bring, for those who have no clone to install them from.
EXTRAS = {"sim": ("mujoco>=4,<5", "mujoco-warp>=4,<5"), "ray": ("ray[data]>=2.50,<3",)}


def require_extra(extra: str) -> None:
    """Make sure that what an extra brings is installed.

    Raises:
        ConfigError: A module of it is missing or of another version; the message is the command that adds it.
    """
    wanted = [Requirement(text) for text in EXTRAS[extra]]
    found = {one.name: _version(one.name) for one in wanted}
    if not all(one.specifier.contains(found[one.name], prereleases=True) for one in wanted):
        raise ConfigError(
            expected=f"the extra `{extra}`: {', '.join(EXTRAS[extra])}",
            got=", ".join(f"{name} {'missing' if one == '0' else one}" for name, one in found.items()),
            fix="Run: pip install " + " ".join(f'"{name}"' for name in EXTRAS[extra]),
        )


def _version(name: str) -> str:
    """Return the version of a package whose module can be found, or `0`."""
    if importlib.util.find_spec(name.replace("-", "_")) is None:
        return "0"
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "0"


def resolve_device(name: str) -> str:
    """Return `cpu` or a CUDA device; `auto` takes CUDA where there is one.

    Raises:
        ConfigError: CUDA is asked for and not there, or the name is no device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return name
    if name == "cuda" or (name.startswith("cuda:") and name[5:].isdecimal()):
        if not torch.cuda.is_available():
            raise ConfigError(
                expected=f"a CUDA device for device={name}",
                got="none on this machine",
                fix="Pass device=cpu.",
            )
        return name
    raise ConfigError(
        expected="device auto, cpu, cuda or cuda:<index>", got=f"'{name}'", fix="Pass device=auto."
    )


def available_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def intra_op_threads(count: int) -> Iterator[None]:
    """Use `count` intra-op torch threads inside the block."""
    import torch

    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def made_ahead[S, T](items: Iterable[S], make: Callable[[S], T], threads: int) -> Generator[T]:
    """Yield `make(item)` of each item in order.

    Args:
        items: What to make something of; taken by the caller's thread.
        make: Called once for each item.
        threads: Threads that call it, each at most one item ahead and with one intra-op torch thread, so that
            cores that others use as well are never waited for; 0 calls it when its turn comes.
    """
    if threads == 0:
        yield from map(make, items)
        return
    waiting = iter(items)
    with ThreadPoolExecutor(threads, initializer=_alone) as pool:
        pending = deque(pool.submit(make, item) for item in itertools.islice(waiting, threads))
        try:
            while pending:
                made = pending.popleft().result()
                pending.extend(pool.submit(make, item) for item in itertools.islice(waiting, 1))
                yield made
        finally:
            pool.shutdown(cancel_futures=True)


def _alone() -> None:
    import torch

    torch.set_num_threads(1)


_TEAM = threading.local()


def abreast[T](calls: Sequence[Callable[[], T]], threads: int) -> list[T]:
    """Make calls in at most so many threads and return what they return, in their order; see `as_made`."""
    made = dict(as_made(calls, threads))
    return [made[place] for place in range(len(calls))]


def as_made[T](calls: Sequence[Callable[[], T]], threads: int) -> Generator[tuple[int, T]]:
    """Make calls in at most so many threads; yield (place, what it returned) of each as soon as it has.

    When one of them fails, or Ctrl-C is pressed, the others are asked to leave (`leave_if_asked`) and what
    happened is raised.
    """
    if min(threads, len(calls)) < 2:
        yield from ((place, call()) for place, call in enumerate(calls))
        return
    stop = threading.Event()
    with ThreadPoolExecutor(threads, initializer=leave_when, initargs=(stop,)) as pool:
        places = {pool.submit(call): place for place, call in enumerate(calls)}
        try:
            for future in as_completed(places):
                yield places[future], future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


class StopEvent(Protocol):
    """An event of threads or of processes."""

    def is_set(self) -> bool:
        """Tell whether it happened."""
        ...


def leave_when(stop: StopEvent) -> None:
    """Let `leave_if_asked` look at this event in the calling thread."""
    _TEAM.stop = stop


def leave_if_asked() -> None:
    """Raise CancelledError in a thread of `abreast`, or a process of a `Crew`, whose work is not wanted."""
    stop = getattr(_TEAM, "stop", None)
    if stop is not None and stop.is_set():
        raise CancelledError


# Numbers of malloc.h, the same on all platforms that have glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def share_heap() -> None:
    """Let all threads allocate from one heap, with glibc; call it before there are any.

    A thread's own heap holds 64 MB. Batches are larger: their memory would come from the system and go back
    every time, and clearing its pages took a quarter of the time of heads that train side by side.
    """
    libc = glibc()
    if libc is not None:
        libc.mallopt(_ARENA_MAX, 1)


def glibc() -> ctypes.CDLL | None:
    """Return glibc, or None where another C library is in use."""
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


_MEMORY = threading.local()


def scratch(name: str, size: int) -> torch.Tensor:
    """Return uint8 `[size]` that the calling thread uses again and again under this name.

    The system clears memory that it hands out, which takes longer than to fill it with latents.
    """
    import torch

    found: torch.Tensor | None = getattr(_MEMORY, name, None)
    if found is None or len(found) < size:
        found = torch.empty(size, dtype=torch.uint8)
        setattr(_MEMORY, name, found)
    return found[:size]


_ALL = (1 << 31) - 1  # bytes: nothing is given back
# What glibc itself goes up to while a process frees ever larger blocks; older versions accept no more.
_MMAP_MOST, _TRIM_MOST = 32 << 20, 64 << 20

_keeping = threading.Lock()
_keepers: list[str] = []  # who is inside `kept_heap`


@contextlib.contextmanager
def kept_heap(device: str) -> Iterator[None]:
    """Keep freed memory in the process inside the block, for work on the CPU with glibc.

    Otherwise gradients and activations go back to the system after each step, and the next one waits for
    their pages to be cleared again: a seventh of the time of attentive probes, up to a third of that of
    convolutional encoders. After the block, glibc gives the memory back: what is free now at once, the rest
    when it is freed.

    Args:
        device: Nothing happens unless it is `cpu`.
    """
    libc = glibc() if device == "cpu" else None
    if libc is None:
        yield
        return
    with _keeping:
        _keepers.append(device)
        if not libc.mallopt(_MMAP_THRESHOLD, _ALL):
            libc.mallopt(_MMAP_THRESHOLD, _MMAP_MOST)
        libc.mallopt(_TRIM_THRESHOLD, _ALL)
    try:
        yield
    finally:
        with _keeping:
            _keepers.pop()
            if not _keepers:  # the last of several threads
                libc.mallopt(_MMAP_THRESHOLD, _MMAP_MOST)
                libc.mallopt(_TRIM_THRESHOLD, _TRIM_MOST)
                give_back_heap()


def give_back_heap() -> None:
    """Give freed memory back to the system, also inside `kept_heap`: for where much was freed for good."""
    libc = glibc()
    if libc is not None:
        libc.malloc_trim(0)


def require_like_cpu(what: str, got: torch.Tensor, expected: torch.Tensor, precision: torch.dtype) -> None:
    """Compare vectors `[... d]` that a device computed of one batch with those of the CPU in float32.

    A tenth of them may be others, as where rounding chooses another code.

    Args:
        what: What computed them, for the message.
        got: Of the device.
        expected: Of the CPU.
        precision: What the device computed in.

    Raises:
        DeviceError: More of them deviate by a part of their length that the precision does not explain
            (float32: .01, which allows TF32; float16: .03; bfloat16: .1), or are not finite.
    """
    import torch

    vectors = [value.detach().cpu().float().reshape(-1, value.shape[-1]) for value in (got, expected)]
    if vectors[0].shape != vectors[1].shape:
        part, limit = float("inf"), 0.0
    else:
        limit = {torch.float16: 0.03, torch.bfloat16: 0.1}.get(precision, 0.01)
        length = vectors[1].norm(dim=-1).clamp(min=1e-6)
        deviation = ((vectors[0] - vectors[1]).norm(dim=-1) / length).nan_to_num(torch.inf, torch.inf)
        part = float(deviation.quantile(0.9))
    if not part <= limit:
        raise DeviceError(
            expected=f"{what} on {got.device} within {limit} of the CPU's numbers",
            got=f"{part:.3g} in the worst tenth of {len(vectors[1])} vectors",
            fix="Pass device=cpu, and report it with the output of `lary doctor --device cuda`.",
        )


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Leave garbage in cycles for later: imports and figures make many objects, and few of them are any.

    Looking for it again and again took a tenth of a run whose cells were finished.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def process_rank() -> int:
    """Return the number of this process: 0 for the first one, and for one that was started alone."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """Return how many processes `accelerate launch` or `torchrun` started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this process may write results: it was started alone or is the launcher's first."""
    return process_rank() == 0


def is_connected() -> bool:
    """Return whether this process has met the others of its launcher."""
    distributed = sys.modules.get("torch.distributed")  # not imported for the question alone
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def require_one_process(what: str) -> None:
    """Raise ConfigError if a launcher started several processes for something that needs one."""
    if process_count() > 1:
        raise ConfigError(
            expected=f"one process for {what}",
            got=f"{process_count()} processes of a launcher",
            fix="Start it without `accelerate launch`; heads of runs with source=<key> train in several.",
        )


Precision = Literal["auto", "float32", "bfloat16"]


def resolve_precision(precision: Precision, device: str) -> torch.dtype:
    """Return the compute dtype; `auto` is bfloat16 where the hardware multiplies it natively.

    That is CUDA from Ampere on, and CPUs with AMX or AVX512_BF16 (1.8 times the images of DINOv2-S a second
    of an AMD EPYC); elsewhere bfloat16 is emulated and slower than float32.
    """
    import torch

    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32


def autocast(device: str, precision: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Return a context that computes matrix products in `precision` and keeps weights in float32."""
    import torch

    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=precision)


def _cpu_has_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 (private names of torch, absent on other architectures)."""
    import torch

    probes = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    return any(probe is not None and probe() for probe in probes)


def free_memory() -> int:
    """Return the bytes that this process may still take, as the machine and its container have it."""
    if not _MEMINFO.is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = (line.split() for line in _MEMINFO.read_text().splitlines())
    free = next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")
    limit, used = (_CGROUP / "memory.max", _CGROUP / "memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        free = min(free, max(0, int(text) - int(used.read_text())))
    return free
