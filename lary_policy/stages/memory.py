"""How much memory the latents of a training may take, and where they are if that is too little."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lary_policy.data.bank import Bank, RamBudget, StoredLatents
from lary_policy.progress import console

# Of the free memory: heads, optimisers and other runs need the rest, and whatever is free keeps files that
# are read again and again in memory anyway.
_SHARE = 0.25
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def ram_budget(ram_gb: float | None) -> RamBudget:
    """Return the memory for the latents of one training.

    Args:
        ram_gb: 10^9 bytes, or None for a quarter of what is free now.
    """
    return RamBudget(int(free_memory() * _SHARE if ram_gb is None else ram_gb * 1e9))


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


def tell_what_stays_on_disk(label: str, banks: Mapping[str, Bank]) -> None:
    """Print which splits are read from disk batch by batch; nothing if all are in memory."""
    stored = {split: bank for split, bank in banks.items() if isinstance(bank, StoredLatents)}
    if stored:
        sizes = ", ".join(f"{split} {bank.nbytes / 1e9:.1f} GB" for split, bank in stored.items())
        console.print(f"    latents of {label} stay on disk (latents_ram_gb): {sizes}", soft_wrap=True)
