"""Encoders that workers of a cluster load: they tell who encoded what, and what was published by then."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from synthetic_pairs import PoolEncoder
from torch import Tensor

from lary_policy.latents.shards import SUFFIX, shard_frame_ids
from lary_policy.latents.store import SHARDS


class TellingEncoder(PoolEncoder):
    """Writes a line for each frame that it is given: process, frame, whether a shard of a store has it."""

    def __init__(self, telling: Telling) -> None:
        super().__init__()
        self._telling = telling
        self._names = json.loads(telling.names.read_text())

    def encode(self, frames: Tensor) -> Tensor:
        shards = (self._telling.store / SHARDS).glob(f"[!.]*{SUFFIX}")
        published = {name for path in shards for name in shard_frame_ids(path)}
        names = [self._names[digest_of(frame)] for frame in frames[:, 0]]
        with self._telling.log.open("a") as file:
            file.write("".join(f"{os.getpid()} {name} {name in published}\n" for name in names))
        time.sleep(self._telling.seconds)
        return super().encode(frames)


def digest_of(frame: Tensor) -> str:
    return hashlib.sha256(frame.contiguous().numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class Telling:
    """Loads a `TellingEncoder`.

    Attributes:
        names: JSON from the digest of a frame's pixels to its id.
        log: Where it tells.
        store: The store it looks at.
        seconds: What a batch takes.
    """

    names: Path
    log: Path
    store: Path
    seconds: float = 0.0

    def __call__(self) -> TellingEncoder:
        return TellingEncoder(self)

    @property
    def lines(self) -> list[tuple[int, str, bool]]:
        """What was told: process, frame, whether it was published already."""
        text = self.log.read_text().splitlines() if self.log.is_file() else []
        return [(int(pid), name, said == "True") for pid, name, said in map(str.split, text)]
