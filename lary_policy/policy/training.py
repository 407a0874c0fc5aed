"""Which parts of an encoder train: none, its last blocks, all of it, or LoRA adapters."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from functools import partial

from torch import nn

from lary_policy.encoders import LatentEncoder
from lary_policy.encoders.random_init import build_seeded
from lary_policy.errors import ConfigError
from lary_policy.policy.encoder_config import EncoderConfig
from lary_policy.policy.trace import call_order, norm_after, transformer_blocks

# Names of the projections to queries and values, alone or with keys, in the libraries that models come from.
ATTENTION = (
    *("q_proj", "v_proj", "query", "value", "qkv"),
    *("to_q", "to_v", "to_kv", "to_qkv", "q", "v", "kv", "wq", "wv", "q_lin", "v_lin"),
)
INSTALL_LORA = 'pip install "lerobot_policy_lary[lora]"'

Parts = tuple[nn.Module, ...]


def train_parts(encoder: LatentEncoder, backbone: nn.Module, config: EncoderConfig) -> Parts:
    """Give the parameters that `config.trainable` names gradients; all others are frozen already.

    Args:
        encoder: A frozen encoder.
        backbone: Its module.
        config: What trains.

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
