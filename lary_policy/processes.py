"""Which of a launcher's processes this is; read from the environment, so it costs no import."""

from __future__ import annotations

import os
import sys

from lary_policy.errors import ConfigError


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
