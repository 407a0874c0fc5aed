"""The probe suite beside the reference's way of doing it, on the same frames, clips and latents."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from reference_pattern import NpzRows, decode_whole_clip, extract_rows, timed_sweep
from torch import Tensor, nn
from torch.utils.data import DataLoader

from case import Figure
from lary_policy.encoders import load_encoder
from lary_policy.frames import frame_id, read_video_frames
from lary_policy.heads import (
    AttentiveProbeConfig,
    TrainConfig,
    action_objective,
    build_module,
    class_objective,
    load_head_config,
)
from lary_policy.heads.training import (
    REFERENCE_SWEEP,
    LatentBatches,
)
from lary_policy.heads.training.epoch import HeadStack, TrainingRun, train_epoch
from lary_policy.heads.training.loop import train
from lary_policy.latents import (
    FRAMES,
    LatentStore,
    WindowEncoder,
    encode_windows,
    good_batch_size,
    store_dtype,
)
from lary_policy.machine import Precision, available_cores, intra_op_threads, kept_heap, resolve_precision
from timing import timed

STRIDE, ACTION_DIM = 5, 7  # CALVIN
PAIRS_AN_EPISODE = 12  # of 832 of the 1,087 episodes of CALVIN's val split (protocol section 1.3)
FRAME_PX = 200  # CALVIN's static camera
EPOCH_BATCH = 64
CLIP_SIZE = (320, 240)
CLIP_SEEN = 9
WARM_UP_STEPS = {"cpu": 1, "cuda": 6}  # on CUDA a step is recorded first
SWEEP_FRAMES, SWEEP_TOKENS, SWEEP_WIDTH, SWEEP_CLASSES = 8, 16, 1024, 54  # clips of LAPA-DINOv2, robot_1st


@dataclass(frozen=True)
class _Both:
    """Seconds of both sides, interleaved so that a busy machine disturbs their ratio little."""

    ours: list[float]
    theirs: list[float]

    def rate(self, metric: str, count: int, unit: str) -> Figure:
        """Return our rate with the other side's as baseline."""
        rates = [count / s for s in self.ours]
        baseline = count / statistics.median(self.theirs)
        return Figure(metric, statistics.median(rates), unit, baseline, min(rates), max(rates))

    def seconds(self, metric: str) -> Figure:
        """Return our seconds with the other side's as baseline."""
        ours = self.ours
        return Figure(
            metric, statistics.median(ours), "s", statistics.median(self.theirs), min(ours), max(ours)
        )


def run(
    encoder: str,
    episodes: int,
    rows: int,
    head: str,
    clips: int,
    clip_frames: int,
    sweep_batch: int,
    image_px: int,
    repeats: int,
    parts: str,
    device: str,
) -> Iterator[Figure]:
    """Yield the figures of the chosen parts; ratios are ours over the reference's pattern.

    Args:
        encoder: A frame encoder; its weights are random.
        episodes: Episodes of `PAIRS_AN_EPISODE` chained pairs that are extracted.
        rows: Rows of an epoch; they point to the extracted latents again and again.
        head: Regression head of `regression_epoch_head`.
        clips: Video clips to decode.
        clip_frames: Frames of each.
        sweep_batch: Samples of a step of the five heads.
        image_px: Input size of the encoder.
        repeats: Measurements of which the median counts.
        parts: `extraction`, `clips`, `sweep`, with commas between.
        device: Where encoder and sweep run.
    """
    chosen = parts.split(",")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        if "clips" in chosen:  # first: a training changes how glibc hands out large blocks, for both sides
            yield from _clips(clips, clip_frames, repeats, Path(name))
        if "extraction" in chosen:
            yield from _extraction(encoder, episodes, rows, head, image_px, repeats, device, Path(name))
    if "sweep" in chosen:
        yield from _sweep("head_sweep", "bfloat16", sweep_batch, repeats, device)  # as the reference trains
        yield from _sweep("head_sweep_float32", "float32", sweep_batch, repeats, device)


def _both(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int, device: str = "cpu"
) -> _Both:
    pairs = [(timed(ours, device), timed(theirs, device)) for _ in range(repeats)]
    return _Both([a for a, _ in pairs], [b for _, b in pairs])


def _extraction(
    name: str, episodes: int, rows: int, head: str, image_px: int, repeats: int, device: str, folder: Path
) -> Iterator[Figure]:
    dtype = str(resolve_precision("auto", device)).removeprefix("torch.")
    encoder = load_encoder(name, weights="random", image_px=image_px, dtype=dtype, device=device)
    pairs = _chained_pairs(folder / "images", episodes)
    counted = _Counted(encoder)
    stores: list[LatentStore] = []

    def ours() -> None:
        stores.append(_store(folder / f"store{len(stores)}", counted, dtype))
        frames, size = zip(itertools.chain(*pairs)), good_batch_size(device)
        with intra_op_threads(1):  # as `lary extract` has it
            encode_windows(frames, FRAMES, counted, stores[-1], batch_size=size, threads=available_cores())

    files: list[Path] = []
    (folder / "npz").mkdir()

    def theirs() -> None:
        files[:] = extract_rows(pairs, counted, folder / "npz")

    with torch.inference_mode():
        encoder.encode(torch.zeros(1, 1, FRAME_PX, FRAME_PX, 3, dtype=torch.uint8))  # warm up
        counts = []
        for side in (ours, theirs):
            counted.frames = 0
            side()
            counts.append(counted.frames)
        wall = _both(ours, theirs, repeats, device)
    yield Figure("unique_encodes", counts[0], "frames", counts[1])
    yield wall.seconds("extraction_wall")
    store = stores[-1]
    yield Figure("storage", _size(store.root) / 2**20, "MiB", sum(f.stat().st_size for f in files) / 2**20)
    yield from _regression(store, pairs, files, rows, head, repeats, folder)


def _store(root: Path, encoder: WindowEncoder, encoder_dtype: str) -> LatentStore:
    """Open a store as runs with latents_dtype=auto under protocol=native have it."""
    dtype = store_dtype("auto", "native", encoder_dtype)
    return LatentStore(root, encoder.fingerprint, encoder.latent, dtype=dtype, packed=True)


def _regression(
    store: LatentStore,
    pairs: Sequence[tuple[Path, Path]],
    files: Sequence[Path],
    rows: int,
    head_name: str,
    repeats: int,
    folder: Path,
) -> Iterator[Figure]:
    """Time an epoch's batches alone, then with a head that learns from them; the same rows on both sides."""
    ids = {path: frame_id(path) for path in itertools.chain(*pairs)}
    unique = list(dict.fromkeys(ids.values()))
    place = {frame: i for i, frame in enumerate(unique)}
    rng = np.random.default_rng(0)
    actions = rng.normal(size=(len(pairs), STRIDE, ACTION_DIM)).astype(np.float32)
    of_row = [i % len(pairs) for i in range(rows)]
    index = torch.tensor([[[place[ids[p]]] for p in pairs[i]] for i in of_row])
    samples = LatentBatches(store.read(unique), index, torch.from_numpy(actions[of_row]))
    (folder / "actions").mkdir()
    chunks = [folder / "actions" / f"{i}.npy" for i in range(len(pairs))]
    for path, chunk in zip(chunks, actions, strict=True):
        np.save(path, chunk)
    zeros, ones = np.zeros(ACTION_DIM), np.ones(ACTION_DIM)
    dataset = NpzRows([files[i] for i in of_row], [chunks[i] for i in of_row], zeros, ones)
    loader = DataLoader(
        dataset, EPOCH_BATCH, shuffle=True, num_workers=available_cores(), persistent_workers=True,
        multiprocessing_context="fork",
    )  # fmt: skip
    for _ in loader:  # starts the workers, and the files are in memory for both sides
        pass
    ready = samples.to("cpu", resolve_precision("auto", "cpu"))

    def batches() -> None:
        for _ in ready.shuffled(EPOCH_BATCH, torch.Generator().manual_seed(0)):
            pass

    def their_batches() -> None:
        for _ in loader:
            pass

    with kept_heap("cpu"):  # as `train` has it around all its epochs; the other side's first one is over, too
        batches()
        epochs = _both(batches, their_batches, repeats)
    yield epochs.rate("regression_epoch", rows, "samples/s")
    yield _both(
        lambda: _our_epoch(head_name, samples), lambda: _their_epoch(head_name, samples, loader), repeats
    ).rate(f"regression_epoch_head.{head_name}", rows, "samples/s")


def _our_epoch(head_name: str, samples: LatentBatches) -> None:
    config = TrainConfig(epochs=1, batch_size=EPOCH_BATCH, select="last")
    few = LatentBatches(samples.bank, samples.index[:1], samples.targets[:1])
    train(_head(head_name, samples), samples, few, action_objective(), config)


def _their_epoch(head_name: str, samples: LatentBatches, loader: DataLoader[tuple[Tensor, Tensor]]) -> None:
    head = _head(head_name, samples)
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-4, weight_decay=1e-4)
    for latents, targets in loader:
        loss = nn.functional.huber_loss(head(latents.unsqueeze(2)), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _head(name: str, samples: LatentBatches) -> nn.Module:
    model = load_head_config(name).model
    return build_module(model, samples.latent_shape, chunk=STRIDE, action_dim=ACTION_DIM)


def _clips(clips: int, frames: int, repeats: int, folder: Path) -> Iterator[Figure]:
    """Time nine frames a clip, as the reference cuts them (a key frame in 250) and with closer key frames.

    One clip after the other: loaders on both sides give each of their workers whole clips. `_again` are files
    that were read before.
    """
    rng = np.random.default_rng(0)
    wanted = [sorted(rng.choice(frames, CLIP_SEEN, replace=False).tolist()) for _ in range(clips)]
    for name, gop in (("clip_decode", 250), ("clip_decode_gop12", 12)):
        paths = [_write_clip(folder / f"{name}-{i}.mp4", frames, gop, seed=i) for i in range(clips)]
        for path, indices in zip(paths, wanted, strict=True):
            theirs = torch.from_numpy(decode_whole_clip(path, indices)).int()
            apart = (read_video_frames(path, indices).int() - theirs).abs().float().mean()
            if apart > 2:  # two conversions from YUV, each rounding in its own way
                raise SystemExit(f"{path}: frames differ by {apart:.1f} levels, no figure is printed")

        def ours(clips: list[Path] = paths, *, new: bool = True) -> None:
            for path, indices in zip(clips, wanted, strict=True):
                if new:
                    path.touch()  # what is known about a file is forgotten when it changes
                read_video_frames(path, indices)

        def theirs(clips: list[Path] = paths) -> None:
            for path, indices in zip(clips, wanted, strict=True):
                decode_whole_clip(path, indices)

        yield _both(ours, theirs, repeats).rate(name, clips, "clips/s")
        yield _both(partial(ours, new=False), theirs, repeats).rate(f"{name}_again", clips, "clips/s")


def _sweep(metric: str, precision: Precision, batch: int, repeats: int, device: str) -> Iterator[Figure]:
    """Time a training step of the five heads: as `train` does it, and as the reference.

    `_products` is what a step would be that did nothing but the matrix products of the heads' linear layers,
    which both sides have to do.
    """
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, SWEEP_FRAMES, SWEEP_TOKENS, SWEEP_WIDTH, generator=generator)
    labels = torch.randint(SWEEP_CLASSES, (batch,), generator=generator)
    shape = (SWEEP_FRAMES, 1, SWEEP_TOKENS, SWEEP_WIDTH)
    stack = HeadStack(
        [
            build_module(AttentiveProbeConfig(), shape, num_classes=SWEEP_CLASSES, seed=i)
            for i in range(len(REFERENCE_SWEEP))
        ]
    )
    index = torch.arange(batch * SWEEP_FRAMES).view(batch, SWEEP_FRAMES, 1)
    samples = LatentBatches(latents.flatten(0, 1), index, labels)
    config = TrainConfig(
        epochs=1,
        batch_size=batch,
        warmup_fraction=0.0,
        precision=precision,
        device=device,
        sweep=REFERENCE_SWEEP,
    )
    job = TrainingRun.create(stack, samples, samples, class_objective(), config)

    def ours() -> None:
        with kept_heap(device):
            train_epoch(job, 1)  # of one step

    for _ in range(WARM_UP_STEPS[torch.device(device).type]):
        ours()
    dtype = resolve_precision(precision, device)
    products = _products(stack.heads[0], latents.unsqueeze(2).to(device), len(stack.heads), dtype)
    products()
    with timed_sweep(latents, labels, precision, device) as theirs:
        times = [(timed(ours, device), timed(products, device), theirs()) for _ in range(repeats)]
    mine, bare, other = (list(side) for side in zip(*times, strict=True))
    yield _Both(mine, other).rate(metric, batch, "samples/s")
    yield _Both(bare, other).rate(f"{metric}_products", batch, "samples/s")


def _products(head: nn.Module, latents: Tensor, heads: int, dtype: torch.dtype) -> Callable[[], None]:
    """Return a call that multiplies what a training step of so many heads multiplies in its linear layers."""
    sizes: list[tuple[int, int, int, bool]] = []

    def note(layer: nn.Linear, given: tuple[Tensor, ...], _: Tensor) -> None:
        rows = given[0].numel() // layer.in_features
        sizes.append((rows, layer.in_features, layer.out_features, given[0].requires_grad))

    hooks = [m.register_forward_hook(note) for m in head.modules() if isinstance(m, nn.Linear)]
    head(latents)
    for hook in hooks:
        hook.remove()
    made = partial(torch.randn, device=latents.device, dtype=dtype)
    layers = [(made(n, i), made(o, i), made(n, o), passed_on) for n, i, o, passed_on in sizes]

    def multiply() -> None:
        for _, (given, weight, gradient, passed_on) in itertools.product(range(heads), layers):
            nn.functional.linear(given, weight)
            gradient.T @ given
            if passed_on:
                gradient @ weight

    return multiply


class _Counted:
    """An encoder that counts the frames it is given."""

    def __init__(self, encoder: WindowEncoder) -> None:
        self.fingerprint, self.latent, self.frames = encoder.fingerprint, encoder.latent, 0
        self._encoder = encoder

    def encode(self, frames: Tensor) -> Tensor:
        """Encode `[b t h w 3]`."""
        self.frames += frames.shape[0] * frames.shape[1]
        return self._encoder.encode(frames)


def _chained_pairs(folder: Path, episodes: int) -> list[tuple[Path, Path]]:
    """Write frames of a square that wanders over a smooth background; each pair starts where one ended."""
    folder.mkdir()
    pairs = []
    for episode in range(episodes):
        paths = [folder / f"ep_{episode}_{i}.png" for i in range(PAIRS_AN_EPISODE + 1)]
        images = _scene(len(paths), FRAME_PX, FRAME_PX, seed=episode)
        for path, image in zip(paths, images, strict=True):
            Image.fromarray(image).save(path)
        pairs.extend(itertools.pairwise(paths))
    return pairs


def _scene(frames: int, width: int, height: int, *, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 3, height))
    still = 110 + 60 * np.stack([np.sin(x * a + y * b) for a, b in rng.uniform(0.5, 3, (3, 2))], -1)
    video = np.repeat((still + rng.normal(0, 6, still.shape)).clip(0, 255).astype(np.uint8)[None], frames, 0)
    side = height // 5
    for t in range(frames):
        at = int(t / frames * (width - side))
        video[t, side : 2 * side, at : at + side] = (220, 40 + 5 * seed % 200, 30)
    return video


def _write_clip(path: Path, frames: int, gop: int, *, seed: int) -> Path:
    """Encode a clip as the reference cuts them: x264 ultrafast, constant rate factor 23."""
    width, height = CLIP_SIZE
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = gop
        for image in _scene(frames, width, height, seed=seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
