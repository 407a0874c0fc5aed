"""`alone`: an episode is the same to the last bit, however many worlds share its wave."""

from __future__ import annotations

import pytest
import torch

from lary_envs import EndEffectorController, SimEnv
from lary_policy.actions import ActionStats, load_embodiment
from lary_policy.encoders import load_encoder
from lary_policy.heads import ActionExpert, PoolConfig
from lary_policy.rollout import HeadAgent, Wave, run_waves

SEEDS = tuple(range(300_000, 300_007))
PX, CHUNK, STEPS = 28, 5, 30
# Around the middle of the workspace, so that an untrained head's targets are executed and differ.
STATS = ActionStats((0.5, 0.0, 0.2, 0.0, 0.0, 0.0, 0.5), (0.05, 0.1, 0.05, 0.3, 0.3, 0.3, 0.5), 100)


@pytest.fixture(scope="module")
def policy():
    """An encoder and a head that took no step of training: it amplifies what differs, as weak policies do."""
    torch.manual_seed(0)
    encoder = load_encoder("pixels", image_px=PX)
    latent = encoder.latent
    shape = (1, 1, latent.tokens, latent.width)
    head = ActionExpert(shape, CHUNK, 7, pool=PoolConfig(kind="mean"), width=32, num_blocks=2, proprio_dim=7)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder, head


def episodes(policy, num_worlds):
    encoder, head = policy
    env = SimEnv("reach", num_worlds, image_px=PX, num_threads=1)

    def prepare(seeds):
        arm = load_embodiment("arm7")
        agent = HeadAgent(encoder, head, arm, STATS, target="absolute", proprio_stats=STATS, alone=True)
        return Wave(lambda: agent, [None] * len(seeds))

    try:
        return run_waves(env, EndEffectorController(num_worlds), prepare, SEEDS, max_steps=STEPS)
    finally:
        env.close()


def test_alone_an_episode_is_the_same_in_a_wave_of_1_4_and_7(policy):
    one, four, seven = (episodes(policy, n) for n in (1, 4, 7))
    assert one == four == seven
    assert len({e.smoothness for e in one}) == len(SEEDS)
