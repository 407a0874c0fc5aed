"""Every drop-in type trains, is saved without its frozen encoder, and acts the same when loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from drop_in_policies import (
    ACTION_DIM,
    DROP_IN,
    build,
    drop_in_config,
    observation,
    processors,
    step,
    tiny_encoder,
    training_batch,
)
from lerobot.policies.factory import get_policy_class
from safetensors import safe_open

WITH_LOSS = tuple(name for name in DROP_IN if name != "lary_gaussian_actor")


def backbone(policy: Any) -> dict[str, torch.Tensor]:
    """Return a policy's encoder parameters by name."""
    return {n: p for n, p in policy.named_parameters() if ".backbone." in n and ".encoder.encoder." not in n}


def act(policy: Any, pipelines: tuple[Any, Any], seed: int = 0) -> torch.Tensor:
    """Return one postprocessed action of a fresh episode; sampling is seeded."""
    policy.eval()
    policy.reset()
    torch.manual_seed(0)
    batch = pipelines[0](observation(policy.config, seed=seed))
    return pipelines[1](policy.select_action(batch))


def saved_keys(folder: Path) -> list[str]:
    """Return the names of a checkpoint's tensors."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return list(file.keys())


def reload(folder: Path, name: str) -> tuple[Any, tuple[Any, Any]]:
    """Load policy and processors from a checkpoint alone."""
    policy = get_policy_class(name).from_pretrained(folder, strict=True)
    return policy, processors(policy.config, pretrained_path=str(folder))


def save(policy: Any, pipelines: tuple[Any, Any], folder: Path) -> None:
    """Write what lerobot-train writes."""
    for part in (policy, *pipelines):
        part.save_pretrained(folder)


@pytest.mark.parametrize("name", DROP_IN)
def test_frozen_encoder_is_neither_trained_nor_saved(name: str, tmp_path: Path, clip: Path) -> None:
    policy = build(drop_in_config(name, clip))
    pipelines = processors(policy.config)
    before = {n: p.clone() for n, p in backbone(policy).items()}
    if name in WITH_LOSS:
        step(policy, pipelines[0](training_batch(policy.config)))
    assert before
    assert all(p.grad is None and not p.requires_grad for p in backbone(policy).values())
    assert all(torch.equal(p, before[n]) for n, p in backbone(policy).items())

    actions = act(policy, pipelines)
    assert actions.shape == (2, ACTION_DIM)
    assert actions.dtype == torch.float32
    save(policy, pipelines, tmp_path)
    assert not [key for key in saved_keys(tmp_path) if "backbone" in key]

    loaded, again = reload(tmp_path, name)
    assert loaded.config.encoder.sha256 == policy.config.encoder.sha256 is not None
    assert torch.equal(act(loaded, again), actions)
    assert not torch.equal(act(loaded, again, seed=5), actions)


@pytest.mark.parametrize("name", WITH_LOSS)
def test_trained_blocks_learn_and_are_saved(name: str, tmp_path: Path, clip: Path) -> None:
    config = drop_in_config(name, clip, encoder=tiny_encoder(trainable="last", trainable_blocks=1, save=None))
    policy = build(config)
    pipelines = processors(policy.config)
    before = {n: p.clone() for n, p in backbone(policy).items()}
    step(policy, pipelines[0](training_batch(policy.config)))
    moved = {n for n, p in backbone(policy).items() if not torch.equal(p, before[n])}
    wanted = {n for n, p in backbone(policy).items() if p.requires_grad}
    assert moved
    assert moved <= wanted < set(before)
    assert all(torch.isfinite(p.grad).all() for n, p in backbone(policy).items() if n in moved)

    actions = act(policy, pipelines)
    save(policy, pipelines, tmp_path)
    assert [key for key in saved_keys(tmp_path) if "backbone" in key]
    loaded, again = reload(tmp_path, name)
    assert torch.equal(act(loaded, again), actions)


@pytest.mark.parametrize("name", DROP_IN)
def test_optimisers_get_every_trained_parameter_once(name: str, clip: Path) -> None:
    encoder = tiny_encoder(trainable="last", trainable_blocks=1, save=None)
    policy = build(drop_in_config(name, clip, encoder=encoder, **TRAINED_ALONE.get(name, {})))
    given = list(flatten(policy.get_optim_params()))
    assert len({id(p) for p in given}) == len(given)
    assert all(p.requires_grad for p in given)
    owner = policy.actor if name == "lary_gaussian_actor" else policy
    trained = {n for n, p in owner.named_parameters() if p.requires_grad}
    names = {n for n, p in owner.named_parameters() if any(p is g for g in given)}
    assert trained - names == NEVER_TRAINED.get(name, set())


# An actor that shares its encoder leaves that to the critics.
TRAINED_ALONE = {"lary_gaussian_actor": {"shared_encoder": False}}
NEVER_TRAINED: dict[str, set[str]] = {}


def flatten(params: Any) -> Any:
    """Yield the parameters of LeRobot's forms: lists, groups, dicts of lists."""
    if isinstance(params, dict):
        params = [params["params"]] if "params" in params else params.values()
    for entry in params:
        if isinstance(entry, torch.nn.Parameter):
            yield entry
        elif isinstance(entry, dict | list):
            yield from flatten(entry)


@pytest.mark.parametrize("name", ["lary_diffusion", "lary_gaussian_actor"])
def test_two_cameras_share_one_frozen_encoder(name: str, tmp_path: Path, clip: Path) -> None:
    one, two = (len(backbone(build(drop_in_config(name, clip, cameras=n)))) for n in (1, 2))
    assert one == two
    policy = build(drop_in_config(name, clip, cameras=2))
    pipelines = processors(policy.config)
    actions = act(policy, pipelines)
    save(policy, pipelines, tmp_path)
    loaded, again = reload(tmp_path, name)
    assert torch.equal(act(loaded, again), actions)


@pytest.mark.parametrize("name", ["lary_act", "lary_vqbet"])
def test_actions_stay_float32_under_autocast(name: str, clip: Path) -> None:
    policy = build(drop_in_config(name, clip))
    batch = processors(policy.config)[0](observation(policy.config))
    policy.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert policy.select_action(batch).numpy().shape == (2, ACTION_DIM)
