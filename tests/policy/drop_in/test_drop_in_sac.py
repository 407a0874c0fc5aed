"""LeRobot's SAC learns on `lary_gaussian_actor` and leaves a frozen encoder as it was, to the bit."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import pytest
import torch
from drop_in_policies import build, drop_in_config, observation, tiny_encoder
from lerobot.rl import make_algorithm, make_algorithm_config

ROUNDS = 3


def transitions(config: Any) -> dict[str, Any]:
    """Return a batch as LeRobot's replay buffer samples it."""
    now, then = ({k: v for k, v in observation(config, 3, seed).items() if k != "task"} for seed in (0, 1))
    generator = torch.Generator().manual_seed(2)
    return {
        "state": now,
        "next_state": then,
        "action": torch.rand(3, 7, generator=generator) * 2 - 1,
        "reward": torch.rand(3, generator=generator),
        "done": torch.zeros(3),
    }


def learn(policy: Any) -> None:
    """Take a few updates of critics, actor and temperature."""
    settings = make_algorithm_config("sac", policy_config=policy.config, utd_ratio=2)
    algorithm = make_algorithm(settings, policy)
    algorithm.make_optimizers_and_scheduler()
    for _ in range(ROUNDS):
        stats = algorithm.update(repeat(transitions(policy.config)))
        assert all(torch.isfinite(torch.tensor(v)) for v in stats.losses.values())


def tensors(policy: Any, part: str) -> dict[str, torch.Tensor]:
    """Return copies of the parameters whose name contains `part`."""
    return {n: p.detach().clone() for n, p in policy.named_parameters() if part in n}


@pytest.mark.parametrize("shared", [True, False])
def test_frozen_encoder_survives_the_moving_average(shared: bool) -> None:
    policy = build(drop_in_config("lary_gaussian_actor", cameras=2, shared_encoder=shared))
    policy.train()
    encoder, layers = tensors(policy, "backbone"), tensors(policy, "spatial_embeddings")
    learn(policy)
    assert encoder
    assert all(torch.equal(p, encoder[n]) for n, p in tensors(policy, "backbone").items())
    assert all(not torch.equal(p, layers[n]) for n, p in tensors(policy, "spatial_embeddings").items())


def test_sac_computes_frozen_features_once_a_batch() -> None:
    policy = build(drop_in_config("lary_gaussian_actor"))
    calls = []
    policy.image_encoder.backbone.register_forward_hook(lambda *_: calls.append(1))
    learn(policy)
    assert len(calls) == ROUNDS * 2 * 2  # utd_ratio batches, each of now and then


@pytest.mark.parametrize("shared", [True, False])
def test_trained_encoder_learns_from_the_critics(shared: bool) -> None:
    encoder = tiny_encoder(trainable="last", trainable_blocks=1, save=None)
    policy = build(drop_in_config("lary_gaussian_actor", encoder=encoder, shared_encoder=shared))
    assert not policy.config.freeze_vision_encoder
    before = tensors(policy.encoder_critic, "backbone")
    learn(policy)
    trained = {n for n, p in policy.encoder_critic.named_parameters() if "backbone" in n and p.requires_grad}
    moved = {
        n for n, p in tensors(policy.encoder_critic, "backbone").items() if not torch.equal(p, before[n])
    }
    assert trained & moved
