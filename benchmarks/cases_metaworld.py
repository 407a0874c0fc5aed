"""MetaWorld's tasks as worlds of ours: how often its experts succeed, how fast it is simulated and drawn."""

from __future__ import annotations

import gc
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from case import Figure
from checks import require_pictures
from lary_envs import families, open_world
from lary_policy.data.simulated import FIRST_SEED, collect_demonstrations
from lary_policy.machine import available_cores, intra_op_threads
from lary_policy.rollout import ExpertAgent, run_episodes
from lary_policy.types import EpisodeResult
from timing import timed

SHORT_STEPS = 3  # of an episode whose only purpose is to be made and thrown away
MB = 1e6


def run(
    parts: str, tasks: str, seeds: int, task: str, image_px: int, worlds: int, demos: int, episodes: int,
    threads: int, repeats: int, device: str,
) -> Iterator[Figure]:  # fmt: skip
    """Yield the figures of each part that is asked for.

    Args:
        parts: Of `experts`, `render`, `demos`, `memory`, with commas between.
        tasks: Whose experts play: `all`, or some names without `metaworld/`, with commas between.
        seeds: Episodes of each expert.
        task: What the other parts run.
        image_px: Sides of frames.
        worlds: Worlds side by side in `render`.
        demos: Episodes that are recorded in `demos`, with two cameras at every fifth step.
        episodes: Episodes of `memory`.
        threads: Threads of physics and rendering; 0 for all cores.
        repeats: Timed repeats of `render`.
        device: Where frames are rendered.
    """
    options = {"render_device": device, "num_threads": threads or None}
    known: dict[str, Callable[[], Iterator[Figure]]] = {
        "experts": lambda: _experts(_named(tasks), seeds, options),
        "render": lambda: _render(task, worlds, image_px, repeats, options),
        "demos": lambda: _demos(task, demos, image_px, device),
        "memory": lambda: _memory(task, episodes, options),
    }
    yield Figure("threads", threads or available_cores(), "threads")
    with intra_op_threads(1):
        for part in parts.split(","):
            yield from known[part]()


def _named(tasks: str) -> Sequence[str]:
    every = families()["metaworld"].specs()
    return list(every) if tasks == "all" else [f"metaworld/{name}" for name in tasks.split(",")]


def _experts(tasks: Sequence[str], seeds: int, options: dict) -> Iterator[Figure]:
    """Let every expert play from initial states that are those of closed loops."""
    solved = 0
    for task in tasks:
        found = expert_episodes(task, range(FIRST_SEED["rollout"], FIRST_SEED["rollout"] + seeds), options)
        successes = sum(episode.success for episode in found)
        solved += successes
        yield Figure(f"expert.{task.partition('/')[2]}", successes, f"of {seeds} episodes")
    yield Figure("experts", 100 * solved / (len(tasks) * seeds), f"% of {len(tasks) * seeds} episodes")


def expert_episodes(task: str, seeds: Sequence[int], options: dict) -> tuple[EpisodeResult, ...]:
    """Return one episode a seed of a task's expert, each to its first success or MetaWorld's last step."""
    env = open_world(task, len(seeds), **options)
    try:
        return run_episodes(
            env, env.controller(), lambda: ExpertAgent(env.expert()), list(seeds),
            max_steps=env.max_steps, stop_at_success=True,
        ).episodes  # fmt: skip
    finally:
        env.close()


def _render(task: str, worlds: int, image_px: int, repeats: int, options: dict) -> Iterator[Figure]:
    """Draw worlds that stand, with meshes, textures and shadows: one camera, then two."""
    for cameras in (("front",), ("front", "wrist")):
        env = open_world(task, worlds, cameras=cameras, image_px=image_px, **options)
        env.reset(range(worlds))
        require_pictures(env.frames()[:, 0].cpu(), task)
        seconds = [timed(lambda env=env: env.frames(), options["render_device"]) for _ in range(repeats)]
        rates = sorted(worlds * len(cameras) / s for s in seconds)
        metric = f"render_{image_px}px_{len(cameras)}c"
        yield Figure(metric, rates[len(rates) // 2], "frames/s", low=rates[0], high=rates[-1])
        env.close()


def _demos(task: str, count: int, image_px: int, device: str) -> Iterator[Figure]:
    """Record demonstrations as `lary data` does: simulated, drawn, encoded as PNG and written."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        report = collect_demonstrations(
            Path(folder) / "set", task, splits={"train": range(count)}, cameras=("front", "wrist"),
            image_px=image_px, num_worlds=count, stride=5, render_device=device,
        )  # fmt: skip
        yield Figure(f"demos_{image_px}px", time.perf_counter() - started, f"s for {count} episodes")
        yield Figure("demos_frames", report.frames, "frames")


def _memory(task: str, episodes: int, options: dict) -> Iterator[Figure]:
    """Say what the process holds after a fifth of the episodes, three and all; one frame in each."""
    env = open_world(task, 2, cameras=("front",), image_px=32, **options)
    held, marks = [], [2 * round(episodes * share / 2) for share in (0.2, 0.6, 1.0)]
    for done in range(2, marks[-1] + 1, 2):
        env.reset([done, done + 1])
        for _ in range(SHORT_STEPS):
            env.step(torch.zeros(2, 4))
        env.frames()
        if done in marks:
            gc.collect()
            held.append(_resident_mb())
            yield Figure("memory", held[-1], f"MB after {done} episodes")
    env.close()
    yield Figure("memory_growth", held[-1] - held[0], f"MB over {marks[-1] - marks[0]} episodes")


def _resident_mb() -> float:
    """Return what the process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / MB
