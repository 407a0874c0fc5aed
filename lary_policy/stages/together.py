"""Runs in several processes: all train heads together, the first one alone does and writes the rest."""

from __future__ import annotations

from collections.abc import Callable

from lary_policy.heads.workers import open_workers
from lary_policy.processes import is_main_process, process_count


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
