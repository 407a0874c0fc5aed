"""Small planted problems for heads."""

import pytest
import torch

from lary_policy.actions.statistics import ActionStats
from lary_policy.heads.files import HeadMeta
from lary_policy.heads.mlp import ActionExpertConfig
from lary_policy.heads.pool import PoolConfig
from lary_policy.heads.training.batches import LatentBatches


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def planted():
    """Train and val samples whose actions are a linear function of the latents' change."""
    g = generator()
    bank = torch.randn(400, 4, 8, generator=g).half()
    index = torch.stack([torch.arange(399), torch.arange(1, 400)], 1)[:, :, None]
    change = (bank[1:].float() - bank[:-1].float()).flatten(1)
    matrix = torch.randn(32, 2 * 3, generator=g) / 8
    targets = (change @ matrix).view(-1, 2, 3)
    return (
        LatentBatches(bank, index[:300], targets[:300]),
        LatentBatches(bank, index[300:], targets[300:]),
    )


@pytest.fixture
def classes():
    """Clips of four frames; the class says in which of them the first token stands out."""
    index = torch.arange(4000).view(1000, 4, 1)
    targets = torch.randint(0, 4, (1000,), generator=generator(1))
    bank = torch.randn(4000, 2, 8, generator=generator())
    bank[index[torch.arange(1000), targets, 0], 0] += 4
    return (
        LatentBatches(bank.half(), index[:900], targets[:900]),
        LatentBatches(bank.half(), index[900:], targets[900:]),
    )


@pytest.fixture
def meta():
    """Description of a small action head with proprioception."""
    stats = ActionStats((0.5,) * 7, (2.0,) * 7, 10)
    return HeadMeta(
        model=ActionExpertConfig(16, 1, PoolConfig("project", 3)),
        encoder="pixels",
        fingerprint="0123456789abcdef",
        latent_shape=(2, 1, 4, 8),
        cameras=("front",),
        embodiment="arm7",
        task="reach",
        mode="subgoal",
        target="relative",
        chunk=5,
        action_dim=7,
        stats=stats,
        proprio_stats=stats,
        token_grid=(1, 2, 2),
        seed=3,
    )
