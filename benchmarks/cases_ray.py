"""Extraction by two workers of a Ray cluster against one, and the driver's memory over many rows."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from case import Figure
from lary_policy.encoders import LatentEncoder, load_encoder
from lary_policy.latents import FRAMES, Cluster, LatentStore, encode_on_cluster, encode_windows

WARM = 0.2  # share of the windows before rates are taken: workers load their encoders one after the other


@dataclass(frozen=True)
class DrawnFrame:
    """A picture of noise that is drawn when it is decoded.

    Attributes:
        seed: Which one.
        px: Its side.
    """

    seed: int
    px: int

    def ids(self, group: Sequence[DrawnFrame]) -> list[str]:
        """Return the ids of frames."""
        return [hashlib.sha256(f"{one.seed}".encode()).hexdigest() for one in group]

    def group(self) -> str:
        """Say that all of them are drawn together."""
        return "drawn"

    def decode(self, group: Sequence[DrawnFrame]) -> list[Tensor]:
        """Draw frames, uint8 `[px px 3]`."""
        made = (torch.Generator().manual_seed(one.seed) for one in group)
        shape = (self.px, self.px, 3)
        return [torch.randint(0, 256, shape, dtype=torch.uint8, generator=one) for one in made]


def run(
    parts: str, encoder: str, image_px: int, frames: int, shard_rows: int, rows: int, dtype: str, device: str
) -> Iterator[Figure]:
    """Yield frames/s of two workers against one and of one against this process, and the driver's memory."""
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *(path for path in sys.path if path)])
    wanted = parts.split(",")
    if "workers" in wanted:
        load = partial(load_encoder, encoder, image_px=image_px, dtype=dtype, device=device, weights="random")
        yield from _rates(load, [DrawnFrame(seed, image_px) for seed in range(frames)], shard_rows, device)
    if "memory" in wanted:
        load = partial(load_encoder, "pixels", image_px=28)
        yield from _memory(load, [DrawnFrame(seed, 28) for seed in range(rows)])


def _store(load: Callable[[], LatentEncoder], folder: str) -> tuple[LatentEncoder, LatentStore]:
    encoder = load()
    return encoder, LatentStore(Path(folder) / "store", encoder.fingerprint, encoder.latent, packed=True)


def _rates(
    load: Callable[[], LatentEncoder], frames: list[DrawnFrame], shard_rows: int, device: str
) -> Iterator[Figure]:
    windows, sides = [(frame,) for frame in frames], {}
    for name in ("process", "1", "2"):
        told: list[tuple[float, int]] = []
        how = {
            "batch_size": 16, "shard_rows": shard_rows,
            "on_progress": lambda done, _, told=told: told.append((time.perf_counter(), done)),
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            encoder, store = _store(load, folder)
            if name == "process":
                torch.set_num_threads(1)
                encode_windows(windows, FRAMES, encoder, store, threads=1, **how)
            else:
                cluster = Cluster(encoders=int(name), decoders=int(name))
                how |= {"load": load, "cluster": cluster, "device": device}
                encode_on_cluster(windows, FRAMES, encoder, store, **how)
            digests = sorted(path.name for path in store.shards())
        warm = [one for one in told if one[1] >= WARM * len(frames)]
        sides[name] = float(np.polyfit(*zip(*warm, strict=True), 1)[0]), digests  # shards arrive in bursts
    if len({tuple(digests) for _, digests in sides.values()}) != 1:
        raise SystemExit("the stores differ: no figure is printed")
    yield Figure("images_per_second_2_workers", sides["2"][0], "img/s", baseline=sides["1"][0])
    yield Figure("images_per_second_1_worker", sides["1"][0], "img/s", baseline=sides["process"][0])


def _memory(load: Callable[[], LatentEncoder], frames: list[DrawnFrame]) -> Iterator[Figure]:
    told: list[tuple[int, float]] = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        encoder, store = _store(load, folder)
        windows = [(frame,) for frame in frames]
        how = {"batch_size": 16, "on_progress": lambda done, _: told.append((done, own_megabytes()))}
        encode_on_cluster(windows, FRAMES, encoder, store, load=load, cluster=Cluster(), **how)
    first = next(held for done, held in told if done >= 0.1 * len(frames))
    yield Figure("driver_megabytes", told[-1][1], "MB at the last row", baseline=first)
    yield Figure("driver_peak_megabytes", max(held for _, held in told), "MB")
    yield Figure("rows_per_second", len(frames) / (time.perf_counter() - start), "rows/s, start included")


def own_megabytes() -> float:
    """Return the memory that is this process's alone, without files and what it shares with workers."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(re.findall(r"^Anonymous: +(\d+) kB", text, re.MULTILINE)[0]) / 1e3
