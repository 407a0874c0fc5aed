"""Memory stays flat over many environments and over many episodes in one process."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

import pytest
from torch import Tensor

from lary_envs.controller import EndEffectorController
from lary_envs.env import SimEnv
from lary_policy.rollout.agents import Observation
from lary_policy.rollout.loop import run_episodes

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

PAGE = 4096


def resident_mb() -> float:
    """Return the resident set without what the allocator only keeps for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20


class Hold:
    """Stays where it is."""

    needs_frames = False

    def __init__(self, controller: EndEffectorController) -> None:
        self._target = controller.pose()

    def plan(self, observation: Observation) -> Tensor:
        return self._target.unsqueeze(1)


def test_sixty_environments_leave_nothing_behind():
    kept = []
    for number in range(60):
        env = SimEnv("reach", 2, image_px=28)
        env.reset([0, 1])
        env.frames()
        env.close()
        if number % 20 == 19:
            kept.append(resident_mb())
    # The first ones load kernels. Forty environments that stayed would add 200 MB; allocators keep a few.
    assert kept[-1] - kept[0] < 40


def test_ten_thousand_episodes_leave_nothing_behind():
    worlds, steps = 250, 2
    env, controller = SimEnv("reach", worlds), EndEffectorController(worlds)
    kept, episodes = [], 0
    for first in range(0, 10_000, worlds):
        seeds = range(first, first + worlds)
        done = run_episodes(env, controller, lambda: Hold(controller), seeds, max_steps=steps).episodes
        episodes += sum(e.steps == steps for e in done)
        if episodes % 2_000 == 0:
            kept.append(resident_mb())
    env.close()
    assert episodes == 10_000
    assert kept[-1] - kept[0] < 2  # MB; a kilobyte an episode would be 8
