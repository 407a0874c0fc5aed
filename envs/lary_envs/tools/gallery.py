"""What `envs/README.md` shows: a picture of each task and the measured rate of its expert."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lary_envs.env import SimEnv
from lary_envs.randomisation import LEVELS
from lary_envs.tasks import task_spec
from lary_envs.worlds import Simulation, open_world


@dataclass(frozen=True)
class ExpertRate:
    """How often the scripted expert of a task succeeds, and how fast."""

    task: str  # task name
    episodes: int  # episodes, one a seed
    ever: int  # episodes that succeeded at some step
    at_end: int  # episodes in which success held at the last step
    median_steps: int  # median control steps until the first success (of the successful ones)
    max_steps: int  # the slowest of them


def play_expert(env: Simulation, seeds: Sequence[int]) -> Iterator[int]:
    """Reset `env` and run its expert to the end of the episode; yields the number of steps done so far."""
    controller, expert = env.controller(), env.expert()
    env.reset(seeds)
    controller.reset(env.joints())
    expert.reset()
    target = controller.pose()
    yield 0
    for step in range(env.max_steps):
        target = expert.act(target)
        env.step(controller.command(target))
        yield step + 1


def measure_expert(task: str, seeds: Sequence[int], *, randomisation: str = "none") -> ExpertRate:
    """Run the expert once for every seed, all together."""
    env = open_world(task, len(seeds), randomisation=randomisation)
    first = torch.full((len(seeds),), env.max_steps + 1)
    for step in play_expert(env, seeds):
        first = torch.where(env.success() & (first > step), step, first)
    good = first[first <= env.max_steps]
    median, slowest = (int(good.median()), int(good.max())) if len(good) else (0, 0)
    return ExpertRate(task, len(seeds), len(good), int(env.success().sum()), median, slowest)


def write_picture(task: str, path: Path, *, step: int, seed: int = 0, image_px: int = 200) -> None:
    """Write a PNG of all cameras side by side, `step` steps into the expert's episode (edges smoothed)."""
    env = SimEnv(task, 1, cameras=task_spec(task).cameras, image_px=2 * image_px)
    for done in play_expert(env, [seed]):
        if done == step:
            break
    strip = torch.cat(list(env.frames()[0]), dim=1)
    env.close()
    _save(strip, path)


def write_tasks_picture(
    tasks: Sequence[str], path: Path, *, step: int, seed: int = 0, image_px: int = 160, columns: int = 5
) -> None:
    """Write a PNG of tasks in rows, each through its first camera, `step` steps into its expert's episode."""
    frames = []
    for task in tasks:
        env = open_world(task, 1, cameras=task_spec(task).cameras[:1], image_px=2 * image_px)
        next(done for done in play_expert(env, [seed]) if done == step)
        frames.append(env.frames()[0, 0])
        env.close()
    frames += [torch.zeros_like(frames[0])] * (-len(frames) % columns)
    rows = [torch.cat(frames[first : first + columns], 1) for first in range(0, len(frames), columns)]
    _save(torch.cat(rows), path)


def write_levels_picture(
    task: str, path: Path, *, seeds: Sequence[int] = range(4), image_px: int = 160
) -> None:
    """Write a PNG of initial states: one row for each randomisation level, one column a seed."""
    rows = []
    for level in LEVELS:
        env = SimEnv(task, len(seeds), image_px=2 * image_px, randomisation=level)
        env.reset(seeds)
        rows.append(torch.cat(list(env.frames()[:, 0]), dim=1))
        env.close()
    _save(torch.cat(rows), path)


def _save(picture: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.cpu().numpy()).reduce(2).save(path, optimize=True)
