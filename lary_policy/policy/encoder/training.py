"""Which parts of an encoder train: none, its last blocks, all of it, or LoRA adapters."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from lary_policy.encoders import LatentEncoder, build_seeded
from lary_policy.errors import ConfigError
from lary_policy.policy.configuration_lary import EncoderConfig

GREY_PX = 16  # any size will do, the encoder resizes


def call_order(encoder: LatentEncoder, backbone: nn.Module) -> dict[str, int]:
    """Return when each innermost module of an encoder's backbone was called last, by its path."""
    calls: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, path=path: calls.append(path))
        for path, module in backbone.named_modules()
        if not any(module.children())
    ]
    frames = 1 if encoder.latent.kind == "frame" else 2
    try:
        with torch.no_grad():
            encoder.encode(torch.full((1, frames, GREY_PX, GREY_PX, 3), 127, dtype=torch.uint8))
    finally:
        for handle in handles:
            handle.remove()
    return {path: turn for turn, path in enumerate(calls)}


def transformer_blocks(
    backbone: nn.Module, order: Mapping[str, int], name: str
) -> tuple[str, list[nn.Module]]:
    """Return the stack of equal transformer blocks that runs last, and its path.

    A block is what stands two or more times in a row with the same shapes and has two linear layers or more;
    stacks within a block do not count. `order` is what `call_order` returns, `name` the encoder's.

    Raises:
        ConfigError: There is none.
    """
    stacks = {
        path: list(module.children())
        for path, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and _is_stack(list(module.children()))
    }
    outer = [path for path in stacks if not any(path.startswith(f"{other}.") for other in stacks)]
    turns = {path: _last_turn(path, order) for path in outer}
    ran = [path for path in outer if turns[path] >= 0]
    if not ran:
        raise ConfigError(
            expected=f"a stack of equal transformer blocks in '{name}' for encoder.trainable=last",
            got=", ".join(f"{n} ({type(m).__name__})" for n, m in backbone.named_children()) or "no layers",
            fix="Use --policy.encoder.trainable=all or none.",
        )
    path = max(ran, key=lambda p: turns[p])
    return path, stacks[path]


def norm_after(stack: str, order: Mapping[str, int], backbone: nn.Module) -> nn.Module | None:
    """Return the norm that follows a stack of blocks, or None where something else does."""
    end = _last_turn(stack, order)
    later = sorted((turn, path) for path, turn in order.items() if turn > end)
    for _, path in later:
        module = backbone.get_submodule(path)
        if next(module.parameters(), None) is not None:
            return module if "norm" in type(module).__name__.lower() else None
    return None


def _is_stack(blocks: list[nn.Module]) -> bool:
    shapes = {(type(b), *((name, p.shape) for name, p in b.named_parameters())) for b in blocks}
    if len(blocks) < 2 or len(shapes) > 1:
        return False
    return sum(isinstance(module, nn.Linear) for module in blocks[0].modules()) >= 2


def _last_turn(path: str, order: Mapping[str, int]) -> int:
    return max((turn for leaf, turn in order.items() if leaf.startswith(f"{path}.")), default=-1)


# Names of the projections to queries and values, alone or with keys, in the libraries that models come from.
ATTENTION = (
    *("q_proj", "v_proj", "query", "value", "qkv"),
    *("to_q", "to_v", "to_kv", "to_qkv", "q", "v", "kv", "wq", "wv", "q_lin", "v_lin"),
)
INSTALL_LORA = (
    'pip install "peft>=0.18,<1"'  # the extra `lora`, for those who have no clone to install it from
)

Parts = tuple[nn.Module, ...]


def train_parts(encoder: LatentEncoder, backbone: nn.Module, config: EncoderConfig) -> Parts:
    """Give the parameters that `config.trainable` names gradients; all others are frozen already.

    Returns:
        The modules that follow the policy into train mode.

    Raises:
        ConfigError: There is no such part in this encoder, its latents have no gradients, or peft is absent.
    """
    if config.trainable == "none":
        return ()
    if encoder.latent.quantised:
        raise ConfigError(
            expected=f"latents with gradients for encoder.trainable={config.trainable}",
            got=f"codebook vectors of '{config.name}'",
            fix="Use --policy.encoder.output=continuous.",
        )
    return TRAINERS[config.trainable](encoder, backbone, config)


def _train_all(encoder: LatentEncoder, backbone: nn.Module, config: EncoderConfig) -> Parts:
    if next(backbone.parameters(), None) is None:
        raise ConfigError(
            expected=f"parameters to train in '{config.name}'",
            got="none",
            fix="Use --policy.encoder.trainable=none.",
        )
    backbone.requires_grad_(True)
    return (backbone,)


def _train_last(encoder: LatentEncoder, backbone: nn.Module, config: EncoderConfig) -> Parts:
    order = call_order(encoder, backbone)
    path, blocks = transformer_blocks(backbone, order, config.name)
    if len(blocks) < config.trainable_blocks:
        raise ConfigError(
            expected=f"encoder.trainable_blocks of at most {len(blocks)}, the blocks of '{config.name}'",
            got=str(config.trainable_blocks),
            fix="Train fewer blocks, or all of the encoder with trainable=all.",
        )
    norm = norm_after(path, order, backbone)
    parts = (*blocks[-config.trainable_blocks :], *([norm] if norm else []))
    for part in parts:
        part.requires_grad_(True)
    return parts


def _train_lora(encoder: LatentEncoder, backbone: nn.Module, config: EncoderConfig) -> Parts:
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(
            expected="the package 'peft' for encoder.trainable=lora",
            got="not installed",
            fix=f"Run: {INSTALL_LORA}",
        )
    from peft import LoraConfig, inject_adapter_in_model

    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules="|".join(map(re.escape, _projections(encoder, backbone, config.name))),
    )
    build_seeded(partial(inject_adapter_in_model, lora, backbone), config.seed)
    return ()


def _projections(encoder: LatentEncoder, backbone: nn.Module, name: str) -> list[str]:
    """Return the paths of the query and value projections that encoding runs."""
    order = call_order(encoder, backbone)
    linear = [path for path, module in backbone.named_modules() if type(module) is nn.Linear]
    found = [path for path in linear if path in order and path.rpartition(".")[2] in ATTENTION]
    if not found:
        kinds = sorted({re.sub(r"\d+", "*", path) for path in linear})
        raise ConfigError(
            expected=f"attention projections in '{name}', named {', '.join(ATTENTION)}",
            got=f"linear layers {', '.join(kinds) or '(none)'}",
            fix="Use --policy.encoder.trainable=last, all or none.",
        )
    return found


TRAINERS: dict[str, Callable[[LatentEncoder, nn.Module, EncoderConfig], Parts]] = {
    "last": _train_last,
    "all": _train_all,
    "lora": _train_lora,
}
