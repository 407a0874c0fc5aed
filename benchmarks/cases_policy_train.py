"""Steps a second of training policies with stored latents and without, and how fast `lary` acts."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drop_in_training import POLICIES
from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.policies.factory import make_policy

from case import Figure
from lary_envs.tasks import task_spec
from lary_policy.cli.train import main as lary_train
from lary_policy.cli.train.cache import imagenet_stats
from lary_policy.data.lerobot import export_demonstrations
from lary_policy.data.simulated import collect_demonstrations
from lary_policy.machine import available_cores
from lary_policy.policy import EncoderConfig, LaryConfig, LaryPolicy
from lary_policy.policy.cache import BuiltCache, CachePlan, LatentCache, build_cache
from lary_policy.policy.encoder import ObservationEncoder
from timing import timed

REPO_ID = "local/benchmark"
LOOKED_UP = 64  # frames of a batch whose latents are looked up
CALLS = 30  # actions whose latency is measured


def run(
    task: str,
    encoder: str,
    image_px: int,
    cameras: int,
    demos: int,
    batch: int,
    steps: int,
    cached_steps: int,
    whole_run: int,
    types: str,
    repeats: int,
    device: str,
) -> Iterator[Figure]:
    """Yield steps/s with and without stored latents on the same demonstrations, and latencies of acting.

    LeRobot's own loop trains: the seconds of a short run are taken from those of a longer one, so that what a
    run does once (imports, building the policy) does not count.

    Args:
        task: Task whose demonstrations are recorded, frames at every control step as PNG.
        encoder: Frozen frame encoder with its own weights.
        image_px: Side of frames and of the encoder's input.
        cameras: How many of the task's cameras the policy sees.
        demos: Demonstrations.
        batch: Samples of a step.
        steps: Steps that are timed without stored latents.
        cached_steps: Steps that are timed with them.
        whole_run: Steps of a training run, for the rate that counts encoding every frame once.
        types: Policies to train, separated by commas; LeRobot's own with the sizes of `drop_in_training`.
        repeats: Measurements of which the median counts.
        device: Where policy and encoder run.
    """
    seen = task_spec(task).cameras[:cameras]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        data = _dataset(folder, task, seen, image_px, demos)
        config = EncoderConfig(name=encoder, image_px=image_px)
        meta = LeRobotDatasetMetadata(REPO_ID, root=data)
        built = _encode(meta, config, folder, device)
        yield Figure("extraction.frames_per_second", built.encoded / built.seconds, "frames/s")
        flags = {
            "dataset.repo_id": REPO_ID, "dataset.root": data, "policy.device": device, "num_workers": 0,
            "policy.encoder.name": encoder, "policy.encoder.image_px": image_px, "batch_size": batch,
            "save_checkpoint": "false", "env_eval_freq": 0, "log_freq": 0, "latents_dir": folder / "latents",
        }  # fmt: skip
        for kind in types.split(","):
            sized = {**flags, "policy.type": kind, **_sizes(kind)}
            yield from _training(kind, sized, built, steps, cached_steps, whole_run, repeats)
        yield _lookup(built, repeats)
        for dtype in ("float32", "bfloat16"):
            yield from _acting(data, encoder, image_px, dtype, device)


def _dataset(folder: Path, task: str, cameras: tuple[str, ...], image_px: int, demos: int) -> Path:
    recorded = folder / "demonstrations"
    splits = {"train": list(range(demos))}
    collect_demonstrations(recorded, task, splits=splits, cameras=cameras, image_px=image_px)
    return export_demonstrations(recorded, folder / "lerobot", repo_id=REPO_ID, video=False)


def _encode(meta: LeRobotDatasetMetadata, config: EncoderConfig, folder: Path, device: str) -> BuiltCache:
    """Encode every frame as `lary train` would, which then finds the latents."""
    plan = CachePlan({name: name for name in meta.camera_keys}, camera_stats=imagenet_stats())
    encoder = ObservationEncoder(config, device)
    cores = available_cores()
    return build_cache(meta, plan, encoder, folder / "latents", device=device, threads=cores)


def _sizes(kind: str) -> dict[str, str]:
    """Return the sizes of one of LeRobot's policies as flags."""
    sizes = POLICIES[kind.removeprefix("lary_")][2] if kind != "lary" else {}
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in sizes.items()}
    return {f"policy.{name}": str(value) for name, value in lists.items()}


def _training(
    kind: str,
    flags: Mapping[str, Any],
    built: BuiltCache,
    steps: int,
    cached_steps: int,
    whole_run: int,
    repeats: int,
) -> Iterator[Figure]:
    def seconds(count: int, cached: bool) -> float:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
            given = {
                **flags,
                "steps": count,
                "output_dir": f"{name}/run",
                "cache_latents": str(cached).lower(),
            }
            return timed(lambda: lary_train("train", [f"--{k}={v}" for k, v in given.items()]), "cpu")

    def rate(count: int, cached: bool) -> float:
        few = max(1, count // 10)
        return (count - few) / (seconds(count, cached) - seconds(few, cached))

    seconds(1, cached=True)  # warm up
    pairs = [(rate(cached_steps, cached=True), rate(steps, cached=False)) for _ in range(repeats)]
    ours, theirs = [a for a, _ in pairs], statistics.median(b for _, b in pairs)
    median = statistics.median(ours)
    yield Figure(f"{kind}.cached.steps_per_second", median, "steps/s", theirs, min(ours), max(ours))
    with_encoding = whole_run / (built.seconds + whole_run / median)
    yield Figure(
        f"{kind}.cached_with_extraction_{whole_run}.steps_per_second", with_encoding, "steps/s", theirs
    )
    gained = 1 / theirs - 1 / median
    yield Figure(f"{kind}.extraction.paid_back_after", built.seconds / gained, "steps")


def _lookup(built: BuiltCache, repeats: int) -> Figure:
    """Compare random access by frame number with a memory map of the same numbers, both read before."""
    cache = LatentCache(built.folder)
    frames, cameras = cache.facts.dataset.total_frames, cache.facts.cameras
    order = torch.randperm(frames, generator=torch.Generator().manual_seed(0)).split(LOOKED_UP)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        whole = cache.lookup(torch.arange(frames), cameras).numpy()
        np.save(f"{name}/latents.npy", whole)
        plain = np.load(f"{name}/latents.npy", mmap_mode="r")

        def ours() -> None:
            for index in order:
                cache.lookup(index, cameras)

        def theirs() -> None:
            for index in order:
                torch.from_numpy(plain[index.numpy()])

        pairs = [(timed(ours, "cpu"), timed(theirs, "cpu")) for _ in range(max(3, repeats))]
    count = frames * len(cameras)
    rates = [count / a for a, _ in pairs]
    baseline = count / statistics.median(b for _, b in pairs)
    median = statistics.median(rates)
    return Figure("lookup.latents_per_second", median, "latents/s", baseline, min(rates), max(rates))


def _acting(data: Path, encoder: str, image_px: int, dtype: str, device: str) -> Iterator[Figure]:
    """Time actions that are each planned anew: encoder, head, and queues between them."""
    dataset = LeRobotDataset(REPO_ID, root=data)
    config = LaryConfig(
        device=device,
        encoder=EncoderConfig(name=encoder, image_px=image_px, dtype=dtype),
        n_action_steps=1,
        push_to_hub=False,
    )
    policy = make_policy(config, ds_meta=dataset.meta).eval()
    assert isinstance(policy, LaryPolicy)
    names = (*config.image_features, "observation.state")
    frames = [{n: dataset[i][n][None].to(device) for n in names} for i in range(CALLS)]
    kind = torch.device(device).type
    low = torch.autocast(kind, torch.bfloat16) if dtype == "bfloat16" else nullcontext()
    whole, parts = [], []
    with low, torch.no_grad():
        for batch in [frames[0], *frames]:  # the first call warms up
            whole.append(timed(lambda b=batch: policy.select_action(b), device))
            parts.append(timed(lambda b=batch: policy.encode(b), device))
    total, encoding = statistics.median(whole[1:]), statistics.median(parts[1:])
    ends = (min(whole[1:]) * 1e3, max(whole[1:]) * 1e3)
    yield Figure(f"select_action.{dtype}.ms", total * 1e3, "ms", None, *ends)
    yield Figure(f"select_action.{dtype}.encoder_share", encoding / total, "of the time")
