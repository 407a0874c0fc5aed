"""The closed loop on a GPU: nothing waits for the host, and the outcome is that of the CPU."""

from __future__ import annotations

import pytest
import torch

from lary_envs.controller import EndEffectorController
from lary_envs.env import SimEnv
from lary_envs.tasks.expert import make_expert
from lary_envs.tasks.spec import task_spec
from lary_policy.actions.embodiment import load_embodiment
from lary_policy.actions.statistics import ActionStats
from lary_policy.encoders.base import load_encoder
from lary_policy.heads.mlp import ActionExpert
from lary_policy.heads.pool import PoolConfig
from lary_policy.rollout.agents import ExpertAgent, HeadAgent
from lary_policy.rollout.books import Books
from lary_policy.rollout.loop import _Loop
from lary_policy.rollout.waves import Wave, run_waves

pytestmark = pytest.mark.gpu

WORLDS, PX = 8, 56
SEEDS = list(range(300_000, 300_000 + WORLDS))
ARM7 = load_embodiment("arm7")
STATS = ActionStats((0.5, 0.0, 0.2, 0.0, 0.0, 0.0, 0.5), (0.02,) * 7, 100)
STEPS = ActionStats((0.0,) * 7, (0.002,) * 7, 100)


def head_agent(frames, target, goals=None):
    encoder = load_encoder("dinov2-small", weights="tiny-random", image_px=PX, device="cuda")
    torch.manual_seed(0)
    shape = (frames, 1, encoder.latent.tokens, encoder.latent.width)
    head = ActionExpert(shape, 5, 7, pool=PoolConfig(kind="mean"), width=16, num_blocks=1, proprio_dim=7)
    lengths = None
    if goals:
        latent = torch.rand(WORLDS, goals, 1, *shape[2:], device="cuda")
        goals, lengths = latent, torch.full((WORLDS,), goals, device="cuda")
    stats = STEPS if target == "relative" else STATS
    return HeadAgent(
        encoder, head.cuda(), ARM7, stats, target=target, proprio_stats=STATS, goals=goals,
        goal_lengths=lengths,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("frames", "target", "goals"), [(1, "absolute", None), (1, "relative", None), (2, "absolute", 3)]
)
def test_planning_and_execution_never_wait_for_the_gpu(frames, target, goals):
    env = SimEnv("reach", WORLDS, image_px=PX, render_device="cuda")
    controller, agent = EndEffectorController(WORLDS, device="cuda"), head_agent(frames, target, goals)
    env.reset(SEEDS)
    controller.reset(env.joints())
    loop = _Loop(env, controller, Books([None] * WORLDS, env.device), None)
    loop.execute(loop.plan(agent), 50, stop_at_success=False)  # compiles and records
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            loop.execute(loop.plan(agent), 50, stop_at_success=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    env.check()
    assert [e.steps for e in loop.books.results(SEEDS)] == [20] * WORLDS
    env.close()


def expert_results(device, num_worlds, seeds):
    env = SimEnv("reach", num_worlds, image_px=PX, render_device=device)
    controller = EndEffectorController(num_worlds, device=device)

    def prepare(batch):
        return Wave(lambda: ExpertAgent(make_expert("reach", env)), [None] * len(batch))

    results = run_waves(env, controller, prepare, seeds, max_steps=task_spec("reach").max_steps)
    env.close()
    return results


def test_episodes_end_as_on_the_cpu_whatever_the_number_of_worlds():
    seeds = list(range(300_000, 300_040))
    cpu, gpu, few = (expert_results(*options, seeds) for options in (("cpu", 40), ("cuda", 40), ("cuda", 7)))
    for other in (gpu, few):
        same = [ours.success == theirs.success for ours, theirs in zip(other, cpu, strict=True)]
        assert sum(same) >= 38
        steps = [abs(a.first_success_step - b.first_success_step) for a, b in zip(other, cpu, strict=True)]
        assert max(steps) <= 1
