"""From uint8 frames in host memory to latents in a store: each stage alone, and `lary extract`'s loop."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from case import Figure
from lary_policy.encoders import LatentEncoder, compiled, encode_stream, load_encoder, prepare_frames
from lary_policy.latents import FRAMES, LatentStore, encode_windows
from lary_policy.latents.writer import ShardWriter
from lary_policy.machine import available_cores
from timing import timed

WARM_UP, REPEATS = 2, 5
SOURCES = 4  # different batches in memory; the stream goes round them


@dataclass(frozen=True, slots=True)
class _HeldFrame:
    """A frame that is in memory already: its decoding costs nothing."""

    number: int
    image: Tensor = field(compare=False)

    def ids(self, group: Sequence[_HeldFrame]) -> list[str]:
        return [f"{frame.number:064x}" for frame in group]

    def group(self) -> Hashable:
        return None

    def decode(self, group: Sequence[_HeldFrame]) -> list[Tensor]:
        return [frame.image for frame in group]


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

    The stream is the loop that `lary extract` runs, `encode_windows`, on frames that need no decoding. The
    baseline takes one batch after the other: transfer, encode, transfer back; both store in threads.

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
    source = [_frames(batch, px, seed) for seed in range(SOURCES)]
    stream = [source[i % SOURCES] for i in range(batches)]
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=output_dir) as folder, torch.inference_mode():
        for name, milliseconds in _stages(runs, source[0], px, device, Path(folder)).items():
            yield Figure(f"{name}_ms", milliseconds, "ms/batch")
        one_by_one = _rate(lambda: _one_by_one(runs, stream, Path(folder) / "one_by_one"), stream)
        overlapped = _rate(lambda: _loop(runs, stream, Path(folder) / "loop"), stream)
        unstored = _rate(lambda: list(_unstored(runs, stream)), stream)
    yield Figure("images_per_second_unstored", unstored, "img/s")
    yield Figure("images_per_second", overlapped, "img/s", baseline=one_by_one)


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


def _rate(work: Callable[[], object], batches: Sequence[Tensor]) -> float:
    """Return images a second until the last latent is where it belongs."""
    started = time.perf_counter()
    work()
    return sum(map(len, batches)) / (time.perf_counter() - started)


def _one_by_one(encoder: LatentEncoder, batches: Sequence[Tensor], folder: Path) -> None:
    with ShardWriter(_store(encoder, folder)) as writer:
        for number, frames in enumerate(batches):
            writer.add(_ids(number, len(frames)), encoder.encode(frames).cpu()[:, 0])


def _loop(encoder: LatentEncoder, batches: Sequence[Tensor], folder: Path) -> None:
    images = (image for frames in batches for image in frames[:, 0])
    windows = [(_HeldFrame(number, image),) for number, image in enumerate(images)]
    size, threads = len(batches[0]), available_cores()
    report = encode_windows(
        windows, FRAMES, encoder, _store(encoder, folder), batch_size=size, threads=threads
    )
    if report.encoded != len(windows):
        raise SystemExit(f"{report.encoded} of {len(windows)} frames were encoded: no figure is printed")


def _unstored(encoder: LatentEncoder, batches: Sequence[Tensor]) -> Iterator[object]:
    keyed = ((None, (frames,)) for frames in batches)
    for _ in encode_stream(lambda frames: (encoder.encode(frames),), keyed):
        yield None  # latents go as soon as they came


def _store(encoder: LatentEncoder, folder: Path) -> LatentStore:
    return LatentStore(folder, encoder.fingerprint, encoder.latent, dtype="bfloat16")


def _ids(number: int, count: int) -> list[str]:
    return [f"{number:08d}-{row:06d}" for row in range(count)]
