"""A scripted expert's episodes with something done to its targets on the way, for tests of tasks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lary_envs.controller import EndEffectorController
from lary_envs.env import SimEnv
from lary_envs.tasks.expert import make_expert
from lary_envs.tasks.spec import task_spec
from lary_envs.tasks.state import WorldState

Change = Callable[[Tensor, Tensor, Any], Tensor]


def play(
    task: str,
    seeds: Sequence[int],
    change: Change | None = None,
    watch: Callable[[WorldState], None] | None = None,
) -> tuple[SimEnv, Tensor]:
    """Run the expert, `change(wanted, start, expert)` its targets; return the env and success ever `[w]`."""
    env = SimEnv(task, len(seeds))
    controller = EndEffectorController(len(seeds), embodiment=task_spec(task).embodiment)
    env.reset(seeds)
    controller.reset(env.joints())
    expert, target = make_expert(task, env), controller.pose()
    start, ever = target.clone(), torch.zeros(len(seeds), dtype=torch.bool)
    for _ in range(env.task.max_steps):
        target = expert.act(target)
        if change is not None:
            target = change(target, start, expert)
        assert controller.check(target) == [None] * len(seeds)
        env.step(controller.command(target))
        ever |= env.success()
        if watch is not None:
            watch(env.world_state())
    return env, ever
