"""The processes that train one head together; without a launcher there is one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from torch import Tensor, nn

from lary_policy.machine import is_main_process, process_count

# Others wait while the first process extracts latents; the default would end them after half an hour.
_PATIENCE = timedelta(days=7)


class Workers(Protocol):
    """Processes with one copy of the head each.

    Attributes:
        rank: Number of this process; process 0 writes files.
        count: Number of processes.
        device: Torch device of this process.
    """

    rank: int
    count: int
    device: str

    def wrap(self, head: nn.Module) -> nn.Module:
        """Return the head with gradients that are averaged over processes; only its forward does that."""
        ...

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over processes."""
        ...


class SingleWorker:
    """This process alone."""

    rank, count = 0, 1

    def __init__(self, device: str) -> None:
        self.device = device

    def wrap(self, head: nn.Module) -> nn.Module:
        """Return the head itself."""
        return head

    def mean(self, value: Tensor) -> Tensor:
        """Return the value itself."""
        return value


class AccelerateWorkers:
    """Processes started by `accelerate launch` or `torchrun`, connected by Accelerate.

    Args:
        device: `cpu`, or `cuda` for one GPU a process.
    """

    def __init__(self, device: str) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

        # A single frame leaves the temporal embedding without gradient; every step uses the same graph.
        options = [
            DistributedDataParallelKwargs(static_graph=True),
            InitProcessGroupKwargs(timeout=_PATIENCE),
        ]
        self._accelerator = Accelerator(cpu=device == "cpu", kwargs_handlers=options)
        self.rank, self.count = self._accelerator.process_index, self._accelerator.num_processes
        self.device = str(self._accelerator.device)

    def wrap(self, head: nn.Module) -> nn.Module:
        """Return the head in a `DistributedDataParallel`."""
        return self._accelerator.prepare_model(head)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over processes."""
        return self._accelerator.reduce(value.clone(), "mean")  # it reduces in place


def open_workers(device: str) -> Workers:
    """Return all processes of the launcher, found by its `WORLD_SIZE`, or this one."""
    return AccelerateWorkers(device) if process_count() > 1 else SingleWorker(device)


def connect(device: str) -> None:
    """Meet the other processes of the launcher on `device`; without one nothing happens."""
    if process_count() > 1:
        open_workers(device)


def wait_for_all() -> None:
    """Return when all processes have come here."""
    if process_count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def agree[T](value: T) -> T:
    """Return the first process's value in every process; what others pass does not count."""
    if process_count() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    values = [value]
    broadcast_object_list(values, from_process=0)
    return values[0]


def everyones[T](value: T) -> list[T]:
    """Return what each process passes, in the order of their numbers, in every process."""
    if process_count() == 1:
        return [value]
    from accelerate.utils import gather_object

    return gather_object([value])


def first_then_all[T](work: Callable[[], T]) -> T:
    """Do the same in every process, but in the first one before all others: it may download or report."""
    if not is_main_process():
        wait_for_all()
        return work()
    result = work()
    wait_for_all()
    return result


def first_alone[T](work: Callable[[], T], read: Callable[[], T]) -> T:
    """Do something in the first process while all others wait; they `read` what it left on the disk."""
    if is_main_process():
        result = work()
        wait_for_all()
        return result
    wait_for_all()
    return read()
