"""Heads that LARYBench itself trained: its checkpoints' names in ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lary_policy.errors import WeightsMismatchError

# (its name, ours), applied in order to every name; protocol sections 4.1 and 5.2. Names without a
# match, as the projector's, are the same.
_RENAMES = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"^module\.", ""),
        (r"^(classifier|model|dit)\.", ""),
        (r"^pooler\.", ""),
        (r"^(blocks\.\d+)\.attn\.", r"\1."),
        (r"^cross_attention_block\.xattn\.", "cross_attention_block."),
        (r"^layer_norm1\.", "norm_in."),
        (r"^layer_norm2\.", "norm_out."),
        (r"^fc1\.", "fc_in."),
        (r"^fc2\.", "fc_out."),
        (r"^mlp_resnet_blocks\.(\d+)\.ffn\.0\.", r"blocks.\1.norm."),
        (r"^mlp_resnet_blocks\.(\d+)\.ffn\.1\.", r"blocks.\1.linear."),
        (r"^x_embedder\.linear\.", "fc_action."),
        (r"^t_embedder\.mlp\.", "fc_step."),
        (r"^z_embedder\.linear\.", "fc_condition."),
        (r"^z_embedder\.uncondition$", "uncondition"),
        (r"^positional_embedding$", "positions"),
        (r"^final_layer\.linear\.", "fc_out."),
    )
)
_DIFFUSION_MLP = re.compile(r"^(blocks\.\d+)\.mlp\.")
_UNUSED = re.compile(r"(^|\.)history_embedder\.")  # made by its DiT, never called


def reference_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of LARYBench's attentive probe, MLP expert or DiT expert for our heads."""
    diffusion = any("x_embedder" in name for name in weights)
    renamed = {}
    for name, value in weights.items():
        if _UNUSED.search(name):
            continue
        for pattern, ours in _RENAMES:
            name = pattern.sub(ours, name)
        if diffusion:
            name = _DIFFUSION_MLP.sub(r"\1.", name)
        renamed[name] = value.flatten() if name in ("query_tokens", "uncondition") else value
    return renamed


def load_reference_head(head: nn.Module, path: Path, *, member: int = 0) -> None:
    """Fill a head of the reference's size with a checkpoint that the reference wrote.

    Args:
        head: An `AttentiveProbe`, `ActionExpert` or `DiffusionExpert` with the pool `flatten`.
        path: Its `best_model.pth` (regression) or `latest.pt` (classification).
        member: Which head of a classification sweep.

    Raises:
        WeightsMismatchError: The file cannot be read safely, has no such head, or another architecture.
    """
    try:
        file = torch.load(path, map_location="cpu", weights_only=True)
        weights = file["model_state_dict"] if "model_state_dict" in file else file["classifiers"][member]
        head.load_state_dict(reference_weights(weights), strict=True)
    except Exception as error:
        raise WeightsMismatchError(
            expected=f"head {member} of a LARYBench checkpoint that fits {type(head).__name__} in {path}",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:400]}",
            fix="Build the head for the latents, classes or chunk that it was trained with.",
        ) from error
