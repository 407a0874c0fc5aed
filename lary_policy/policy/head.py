"""The head of a policy: built as a probe's head is, and the loss it is trained with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lary_policy.heads import (
    ActionExpert,
    ActionExpertConfig,
    Batch,
    DiffusionExpert,
    DiffusionExpertConfig,
    LatentShape,
    ModelConfig,
    PoolConfig,
    TokenGrid,
    build_module,
    head_kind,
)
from lary_policy.policy.configuration_lary import LaryConfig

PolicyHead = ActionExpert | DiffusionExpert


def _mlp(config: LaryConfig, pool: PoolConfig) -> ActionExpertConfig:
    return ActionExpertConfig(width=config.head_width or 0, num_blocks=config.head_blocks or 0, pool=pool)


def _dit(config: LaryConfig, pool: PoolConfig) -> DiffusionExpertConfig:
    return DiffusionExpertConfig(
        width=config.head_width or 0,
        depth=config.head_blocks or 0,
        num_heads=config.dit_heads,
        mlp_ratio=config.dit_mlp_ratio,
        condition_dropout=config.dit_dropout,
        train_steps=config.dit_train_steps,
        sample_steps=config.dit_sample_steps,
        clip_sample=config.dit_clip_sample,
        pool=pool,
    )


_MODELS: dict[str, Callable[[LaryConfig, PoolConfig], ModelConfig]] = {"mlp": _mlp, "dit": _dit}


def head_model(config: LaryConfig) -> ModelConfig:
    """Return the sizes of the head that a policy's configuration describes.

    Raises:
        ConfigError: A size is out of range.
    """
    pool = PoolConfig(
        kind=config.pool,  # type: ignore[arg-type]  # checked by PoolConfig
        width=config.pool_width,
        grid=config.pool_grid,
        queries=config.pool_queries,
        num_heads=config.pool_heads,
    )
    return _MODELS[config.head](config, pool)


def set_head_model(config: LaryConfig, model: ModelConfig) -> None:
    """Write the sizes of a head into a policy's configuration; inverse of `head_model`."""
    pool = model.pool  # type: ignore[attr-defined]  # heads of actions have one
    values: dict[str, Any] = {
        "head": model.kind,
        "head_width": model.width,  # type: ignore[attr-defined]
        "pool": pool.kind,
        "pool_width": pool.width,
        "pool_grid": pool.grid,
        "pool_queries": pool.queries,
        "pool_heads": pool.num_heads,
    }
    if isinstance(model, DiffusionExpertConfig):
        values |= {
            "head_blocks": model.depth,
            "dit_heads": model.num_heads,
            "dit_mlp_ratio": model.mlp_ratio,
            "dit_dropout": model.condition_dropout,
            "dit_train_steps": model.train_steps,
            "dit_sample_steps": model.sample_steps,
            "dit_clip_sample": model.clip_sample,
        }
    elif isinstance(model, ActionExpertConfig):
        values["head_blocks"] = model.num_blocks
    for name, value in values.items():
        setattr(config, name, value)


def build_policy_head(
    config: LaryConfig, latent_shape: LatentShape, token_grid: TokenGrid | None, action_dim: int
) -> PolicyHead:
    """Build the untrained head of a policy.

    Args:
        config: The policy's configuration.
        latent_shape: (t, c, n, d) of what it sees.
        token_grid: Layout of the n tokens, or None.
        action_dim: Numbers a of an action.

    Raises:
        ConfigError: A size is out of range, or the pool needs a grid that the tokens lack.
    """
    model = head_model(config)
    state = config.robot_state_feature if config.use_proprio else None
    return build_module(  # type: ignore[return-value]
        model,
        latent_shape,
        chunk=config.chunk_size,
        action_dim=action_dim,
        proprio_dim=0 if state is None else state.shape[0],
        token_grid=token_grid,
        seed=int(torch.initial_seed() % 2**31),  # LeRobot seeds torch before it builds the policy
    )


def head_loss(
    head: nn.Module, model: ModelConfig, latents: Tensor, proprio: Tensor | None, targets: Tensor
) -> Tensor:
    """Return the loss of each number `[b k a]`, that of the probes' heads.

    A regression head is compared with its targets, a diffusion head with the noise in them; steps, noise and
    dropped conditions come from torch's global generator.

    Args:
        head: `ActionExpert` or `DiffusionExpert`, or what peft wraps around it.
        model: Its sizes; they say which of the two it is.
        latents: `[b t c n d]`.
        proprio: Normalised state `[b p]`, or None.
        targets: Normalised actions `[b k a]`.
    """
    objective = head_kind(model.kind).objective(model)
    return objective.loss(head, Batch(latents, targets, proprio), reduction="none")


def masked_mean(loss: Tensor, is_pad: Tensor | None, reduction: str) -> Tensor:
    """Average a loss `[b k a]` over the actions that lie inside their episode.

    Args:
        loss: Loss of each number.
        is_pad: bool `[b k]`, actions past the episode's end; None if there are none.
        reduction: `mean` gives one number, `none` one a sample `[b]`.
    """
    inside = torch.ones(loss.shape[:2], device=loss.device) if is_pad is None else (~is_pad).to(loss.dtype)
    per_sample = (loss.mean(-1) * inside).sum(1)
    if reduction == "none":
        return per_sample / inside.sum(1).clamp(min=1)
    return per_sample.sum() / inside.sum().clamp(min=1)
