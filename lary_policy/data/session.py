"""An environment with its controller and expert, reused for batch after batch of episodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lary_policy.data.disturbance import Disturbance
from lary_policy.data.recorder import EpisodeJob, Recording, record_episodes
from lary_policy.data.writer import DemonstrationLayout


def even_batches(jobs: Sequence[EpisodeJob], num_worlds: int) -> list[Sequence[EpisodeJob]]:
    """Cut the jobs into batches of almost equal size, so that few worlds idle in the last one."""
    size = math.ceil(len(jobs) / math.ceil(len(jobs) / num_worlds))
    return [jobs[i : i + size] for i in range(0, len(jobs), size)]


class ExpertSession:
    """Records batches of scripted episodes.

    Args:
        config: Settings of the collection (`task`, `cameras`, `image_px`, `noise`, perhaps `looks` and
            `randomisation`).
        num_worlds: Worlds simulated side by side.
        render_device: Device of the renderer.
    """

    def __init__(self, config: Mapping[str, Any], num_worlds: int, render_device: str) -> None:
        from lary_envs import EndEffectorController, SimEnv

        self._task, self._noise = config["task"], config["noise"]
        self._env = SimEnv(
            self._task,
            num_worlds,
            cameras=tuple(config["cameras"]),
            image_px=config["image_px"],
            render_device=render_device,
            looks=config.get("looks", "primitives"),
            randomisation=config.get("randomisation", "none"),
            physics="mujoco",  # the same demonstrations on every machine
        )
        self._controller = EndEffectorController(num_worlds, embodiment=self._env.task.embodiment)

    def record(
        self, jobs: Sequence[EpisodeJob], form: DemonstrationLayout, *, every_step: bool = False
    ) -> list[Recording]:
        """Record one episode for each job, at most as many as there are worlds.

        Args:
            jobs: Which episodes.
            form: Layout of the dataset.
            every_step: Take frames and states at every control step, not only at chunk boundaries.
        """
        from lary_envs import make_expert

        idle = self._env.num_worlds - len(jobs)
        seeds = [job.seed for job in jobs] + [jobs[-1].seed] * idle
        self._env.reset(seeds)
        self._controller.reset(self._env.joints())
        expert = make_expert(self._task, self._env)
        expert.reset()
        disturbance = Disturbance(
            seeds,
            self._env.layout.num_arms,
            form.stride,
            std_m=self._noise["std_m"],
            std_rad=self._noise["std_rad"],
            enabled=[job.split in self._noise["splits"] for job in jobs] + [False] * idle,
        )
        return record_episodes(
            self._env, self._controller, expert, jobs, disturbance, stride=form.stride, every_step=every_step
        )

    def close(self) -> None:
        """Free the renderer."""
        self._env.close()
