"""From uint8 frames in host memory to latents in a store: each stage alone, and all of them overlapped."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from case import Figure
from lary_policy.encoders import LatentEncoder, compiled, encode_stream, load_encoder, prepare_frames
from lary_policy.latents import LatentStore
from timing import timed

WARM_UP, REPEATS = 2, 5
WRITERS = 8  # threads that hash and write shards; four did not keep up with an H100


def run(
    encoder: str,
    image_px: int,
    batch: int,
    batches: int,
    dtype: str,
    compile: int,
    output_dir: str,
    device: str,
) -> Iterator[Figure]:
    """Yield milliseconds a batch of every stage, then images/s of the stream without and with the store.

    The baseline takes one batch after the other: transfer, encode, transfer back; both store in threads.

    Args:
        encoder: Registry name of a frame encoder; weights are random.
        image_px: Side of frames and input; 0 for the encoder's own.
        batch: Frames at once.
        batches: Batches of the stream.
        dtype: Dtype of weights and latents.
        compile: 1 to run the compiled twin.
        output_dir: Folder under which the store lies while it is measured.
        device: Where the model runs.
    """
    with torch.device(device):
        ours = load_encoder(encoder, image_px=image_px or None, dtype=dtype, device=device, weights="random")
    runs = compiled(ours) if compile else ours
    px = image_px or ours.spec.image_px
    source = [_frames(batch, px, seed) for seed in range(4)]
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=output_dir) as folder, torch.inference_mode():
        for name, milliseconds in _stages(runs, source[0], px, device, Path(folder)).items():
            yield Figure(f"{name}_ms", milliseconds, "ms/batch")
        stream = [source[i % len(source)] for i in range(batches)]
        rates = {
            name: batch * batches / _stored(encode, runs, stream, Path(folder) / name)
            for name, encode in (("one_by_one", _one_by_one), ("stream", encode_stream))
        }
        started = time.perf_counter()
        for _ in encode_stream(runs, stream):
            pass
        unstored = batch * batches / (time.perf_counter() - started)
    yield Figure("images_per_second_unstored", unstored, "img/s")
    yield Figure("images_per_second", rates["stream"], "img/s", baseline=rates["one_by_one"])


def _frames(batch: int, px: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 1, px, px, 3), dtype=torch.uint8, generator=generator)


def _stages(encoder: LatentEncoder, frames: Tensor, px: int, device: str, folder: Path) -> dict[str, float]:
    """Return the median milliseconds of each stage, with the device idle before and after it."""
    pipeline = encoder.spec.preprocess_named("native")
    latents = encoder.encode(frames)
    place = {"device": latents.device, "dtype": latents.dtype}
    resident = frames.to(latents.device)
    images = prepare_frames(resident, px, pipeline, **place)
    host = latents.cpu()[:, 0]
    store = _store(encoder, folder / "stages")
    numbers = iter(range(10**9))
    stages: dict[str, Callable[[], object]] = {
        "upload": lambda: frames.pin_memory().to(latents.device) if latents.is_cuda else frames,
        "preprocess": lambda: prepare_frames(resident, px, pipeline, **place),
        "model": lambda: encoder.model(images),  # type: ignore[attr-defined]
        "download": lambda: latents.to("cpu", non_blocking=True),  # into pinned memory
        "store": lambda: store.write_shard(_ids(next(numbers), len(host)), host),
    }
    return {name: 1e3 * _median(stage, device) for name, stage in stages.items()}


def _median(call: Callable[[], object], device: str) -> float:
    seconds = [timed(call, device) for _ in range(WARM_UP + REPEATS)]
    return statistics.median(seconds[WARM_UP:])


def _one_by_one(encoder: LatentEncoder, batches: list[Tensor]) -> Iterator[Tensor]:
    return (encoder.encode(frames).cpu() for frames in batches)


def _stored(
    encode: Callable[[LatentEncoder, list[Tensor]], Iterator[Tensor]],
    encoder: LatentEncoder,
    batches: list[Tensor],
    folder: Path,
) -> float:
    """Return the seconds until the last latent is in the store; a few threads write shards."""
    store = _store(encoder, folder)
    started = time.perf_counter()
    with ThreadPoolExecutor(WRITERS) as pool:
        writes: deque[Future[str]] = deque()
        for number, latents in enumerate(encode(encoder, batches)):
            writes.append(pool.submit(store.write_shard, _ids(number, len(latents)), latents[:, 0]))
            # Latents that wait hold pinned memory, and new pinned memory is slow to get.
            if len(writes) > WRITERS:
                writes.popleft().result()
        for write in writes:
            write.result()
    return time.perf_counter() - started


def _store(encoder: LatentEncoder, folder: Path) -> LatentStore:
    return LatentStore(folder, encoder.fingerprint, encoder.latent, dtype="bfloat16")


def _ids(number: int, count: int) -> list[str]:
    return [f"{number:08d}-{row:06d}" for row in range(count)]
