"""`alone`: an episode is the same to the last bit, however many worlds share its wave."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lerobot.processor import PolicyProcessorPipeline
from torch import nn

from lary_envs import EndEffectorController, SimEnv
from lary_policy.actions.embodiment import load_embodiment
from lary_policy.actions.statistics import ActionStats
from lary_policy.encoders.base import load_encoder
from lary_policy.errors import ConfigError
from lary_policy.heads.mlp import ActionExpert
from lary_policy.heads.pool import PoolConfig
from lary_policy.rollout.agents import HeadAgent, Observation
from lary_policy.rollout.policy_agent import PolicyAgent
from lary_policy.rollout.waves import Wave, run_waves

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


class Noisy(nn.Module):
    """A policy that draws its plan, as diffusion policies do, and adds what it sees."""

    def __init__(self, **config):
        super().__init__()
        self.config = SimpleNamespace(type="noisy", n_obs_steps=1, n_action_steps=3, **config)

    def reset(self):
        pass

    def predict_action_chunk(self, batch):
        state = batch["observation.state"]
        return torch.randn(len(state), 4, 7) + state[:, None]


def noisy_agent(seeds):
    passed = PolicyProcessorPipeline(steps=[], to_transition=dict, to_output=dict)
    after = PolicyProcessorPipeline(steps=[], to_transition=lambda x: x, to_output=lambda x: x)
    return PolicyAgent(Noisy(), passed, after, ["observation.images.front"], "reach", seeds=seeds)


def seen(worlds, chunk_index=2):
    frames = torch.zeros(len(worlds), 1, 4, 4, 3, dtype=torch.uint8)
    proprio = torch.arange(21.0).view(3, 7)[worlds]
    return Observation(frames, proprio, torch.zeros(len(worlds), 7), chunk_index)


def test_a_policy_that_draws_its_plans_draws_them_by_seed():
    generator = torch.get_rng_state()
    three = noisy_agent([5, 6, 7]).plan(seen([0, 1, 2]))
    alone = [noisy_agent([5 + w]).plan(seen([w])) for w in range(3)]
    assert torch.equal(three, torch.cat(alone))
    assert len({float(row[0, 0]) for row in three - torch.arange(21.0).view(3, 1, 7)}) == 3
    assert not torch.equal(three, noisy_agent([5, 6, 7]).plan(seen([0, 1, 2], chunk_index=3)))
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_policy_with_one_history_of_all_worlds_is_refused_by_name():
    policy = Noisy(temporal_ensemble_coeff=0.1)
    with pytest.raises(ConfigError, match=r"'noisy'.*num_worlds=1"):
        PolicyAgent(policy, policy, policy, ["observation.images.front"], "reach", seeds=[1])
