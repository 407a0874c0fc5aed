"""What storing and shuffling latents asks of a disk and of an S3 server, at a share of LARYBench."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from plan import CLIP_FRAMES, CLIPS, ENCODERS

from case import Figure
from lary_policy.heads.training import LatentBatches
from lary_policy.latents import LatentStore, Place, StoredLatents
from lary_policy.latents import store as stores
from lary_policy.latents.writer import ShardWriter
from lary_policy.types import LatentSpec

STEP = 64  # latents that an encoder makes at once
REQUEST = re.compile(r'"(GET|HEAD|PUT|POST|DELETE) [^"]* HTTP')  # of the server's log
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


def run(
    parts: str, encoder: str, share: float, batch: int, epochs: int, output_dir: str, dtype: str, device: str
) -> Iterator[Figure]:
    """Yield MB/s, requests and bytes read for each byte used, of a folder and of an S3 server."""
    unit, tokens, width = ENCODERS[encoder]
    if unit != "frame":
        raise SystemExit(f"encoder={encoder}: expected one of frames")
    clips = round(sum(CLIPS.values()) * share)
    spec = LatentSpec("frame", tokens, width)
    # As few shards stay open as of the whole benchmark.
    stores.OPEN_SHARDS = max(1, round(stores.OPEN_SHARDS * share))
    wanted = parts.split(",")
    with tempfile.TemporaryDirectory(dir=output_dir or None) as folder:
        ids = [f"{number:064x}" for number in range(clips * CLIP_FRAMES)]
        if "folder" in wanted:
            store = LatentStore(Path(folder) / "disk", "simulated", spec, dtype=dtype, packed=True)
            yield from _written("folder", store, ids)
            for epoch in range(1, epochs + 1):
                yield from _epoch(f"folder.epoch_{epoch}", store, ids, batch)
            shutil.rmtree(store.root)
        if "s3" in wanted:
            yield from _s3(Path(folder), spec, dtype, ids, batch, epochs)


def _written(name: str, store: LatentStore, ids: list[str]) -> Iterator[Figure]:
    """Store drawn latents as extraction does; drawing them is not counted."""
    generator = torch.Generator().manual_seed(0)
    shape = (STEP, store.latent.tokens, store.latent.width)
    made = torch.randn(shape, generator=generator).to(stores.STORE_DTYPES[store.dtype])
    start = time.perf_counter()
    with ShardWriter(store) as writer:
        for first in range(0, len(ids), STEP):
            some = ids[first : first + STEP]
            writer.add(some, made[: len(some)])
    seconds = time.perf_counter() - start
    size = _size(store)
    whole = len(ids) * made[0].nbytes
    yield Figure(f"{name}.shards", len(store.shards()), "files")
    yield Figure(f"{name}.gigabytes", size / 1e9, "GB on disk", baseline=whole / 1e9)
    yield Figure(f"{name}.written", size / 1e6 / seconds, "MB/s, hashing and packing included")


def _epoch(name: str, store: LatentStore, ids: list[str], batch: int) -> Iterator[Figure]:
    """Read clips in random order as a head's training does, what lies on disk never in memory."""
    index = torch.arange(len(ids)).view(-1, CLIP_FRAMES, 1)
    samples = LatentBatches(StoredLatents(store, ids), index, torch.zeros(len(index), dtype=torch.int64))
    _drop(store)
    before, start, seen = _read_bytes(), time.perf_counter(), 0
    for one in samples.shuffled(batch, torch.Generator().manual_seed(1)):
        seen += len(one.latents)
        _drop(store)  # of a store that is a thousand times as large nothing would be there when asked for
    seconds = time.perf_counter() - start
    if seen != len(index):
        raise SystemExit("clips are missing: no figure is printed")
    size = _size(store)
    yield Figure(f"{name}.read", size / 1e6 / seconds, "MB/s of what was asked for")
    yield Figure(f"{name}.clips", seen / seconds, "clips/s")
    yield Figure(f"{name}.amplification", (_read_bytes() - before) / size, "bytes of the disk a byte")


def _size(store: LatentStore) -> int:
    return sum(path.stat().st_size for path in store.shards() if path.exists())


def _drop(store: LatentStore) -> None:
    """Let the system forget the files that are not mapped."""
    for path in store.shards():
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_bytes() -> int:
    """Return what this process had read from disks, read ahead included."""
    text = Path("/proc/self/io").read_text()
    return int(re.findall(r"^read_bytes: (\d+)$", text, re.MULTILINE)[0])


def _s3(
    folder: Path, spec: LatentSpec, dtype: str, ids: list[str], batch: int, epochs: int
) -> Iterator[Figure]:
    """Yield the same of a store by URL: one machine writes it, another one reads it."""
    if shutil.which("moto_server") is None:
        print("s3 is left out: no `moto_server` on the path (pip install 'moto[server]')", file=sys.stderr)
        return
    with _server(folder) as log:
        places = [Place("s3://bucket/latents")] * 2
        writer, reader = (
            LatentStore(folder / f"mirror{n}", "simulated", spec, dtype=dtype, packed=True, remote=place)
            for n, place in enumerate(places)
        )
        before, start = _requests(log), time.perf_counter()
        yield from _written("s3", writer, ids)
        yield from _told("s3.written", _requests(log) - before, time.perf_counter() - start, writer)
        shutil.rmtree(writer.root)
        reader.reload()
        for epoch in range(1, epochs + 1):
            name, here = f"s3.epoch_{epoch}", _size(reader)
            before, start = _requests(log), time.perf_counter()
            yield from _epoch(name, reader, ids, batch)
            yield from _told(name, _requests(log) - before, time.perf_counter() - start, reader)
            yield Figure(
                f"{name}.fetched", (_size(reader) - here) / _size(reader), "bytes of the store a byte"
            )


def _told(name: str, requests: Counter[str], seconds: float, store: LatentStore) -> Iterator[Figure]:
    count = len(store.shards())
    for kind, number in sorted(requests.items()):
        yield Figure(f"{name}.{kind}", number / count, "requests a shard")
    yield Figure(f"{name}.requests", requests.total() / seconds, "requests/s")


def _requests(log: Path) -> Counter[str]:
    return Counter(REQUEST.findall(log.read_text()))


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[Path]:
    """Run an S3 server of this machine with an empty bucket; yield its log."""
    import fsspec

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(KEYS, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
    command = ["moto_server", "-H", "127.0.0.1", "-p", str(port)]
    path = folder / "server.txt"
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with path.open("w") as log, subprocess.Popen(command, stdout=log, stderr=log, env=alone) as server:
        try:
            while server.poll() is None:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/", timeout=5).close()
                    break
                time.sleep(0.2)
            fsspec.filesystem("s3").mkdir("bucket")
            yield path
        finally:
            server.terminate()
