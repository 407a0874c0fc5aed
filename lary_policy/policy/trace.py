"""What an encoder runs and in which order, found by encoding one grey sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lary_policy.encoders import LatentEncoder
from lary_policy.errors import ConfigError

GREY_PX = 16  # any size will do, the encoder resizes


def call_order(encoder: LatentEncoder, backbone: nn.Module) -> dict[str, int]:
    """Return when each innermost module of a backbone was called last, by its path.

    Args:
        encoder: Encodes one grey sample.
        backbone: Its module.
    """
    calls: list[str] = []
    leaves = [(path, module) for path, module in backbone.named_modules() if not any(module.children())]

    def note(path: str) -> Any:
        return lambda *_: calls.append(path)

    handles = [module.register_forward_hook(note(path)) for path, module in leaves]
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
    stacks within a block do not count.

    Args:
        backbone: The module.
        order: See `call_order`.
        name: The encoder's, for the message.

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
    if len(blocks) < 2 or len({_shapes(block) for block in blocks}) > 1:
        return False
    return sum(isinstance(module, nn.Linear) for module in blocks[0].modules()) >= 2


def _shapes(block: nn.Module) -> tuple[Any, ...]:
    return type(block), *((name, p.shape) for name, p in block.named_parameters())


def _last_turn(path: str, order: Mapping[str, int]) -> int:
    return max((turn for leaf, turn in order.items() if leaf.startswith(f"{path}.")), default=-1)
