"""Heads on frozen latents: their kinds, what they can be asked, how they are built and stored."""

from __future__ import annotations

from lary_policy.heads.attentive import AttentiveProbe, AttentiveProbeConfig, FeedForward
from lary_policy.heads.config import (
    HeadConfig,
    TrainConfig,
    list_head_configs,
    load_head_config,
    parse_head_config,
    require_fit,
)
from lary_policy.heads.dit import DiffusionExpert, DiffusionExpertConfig, diffusion_objective, squared_cosine
from lary_policy.heads.files import (
    HEAD_FORMAT,
    HeadMeta,
    build_head,
    count_parameters,
    load_head,
    load_meta,
    load_reference_head,
    save_head,
    write_tensors,
)
from lary_policy.heads.mlp import ActionExpert, ActionExpertConfig
from lary_policy.heads.objective import Batch, Objective, action_objective, class_objective
from lary_policy.heads.pool import LatentShape, Pool, PoolConfig, TokenGrid
from lary_policy.heads.registry import (
    QUESTIONS,
    Head,
    HeadKind,
    HeadSizes,
    ModelConfig,
    build_module,
    head_kind,
    head_kinds,
    register_head,
)

__all__ = [
    "HEAD_FORMAT",
    "QUESTIONS",
    "ActionExpert",
    "ActionExpertConfig",
    "AttentiveProbe",
    "AttentiveProbeConfig",
    "Batch",
    "DiffusionExpert",
    "DiffusionExpertConfig",
    "FeedForward",
    "Head",
    "HeadConfig",
    "HeadKind",
    "HeadMeta",
    "HeadSizes",
    "LatentShape",
    "ModelConfig",
    "Objective",
    "Pool",
    "PoolConfig",
    "TokenGrid",
    "TrainConfig",
    "action_objective",
    "build_head",
    "build_module",
    "class_objective",
    "count_parameters",
    "diffusion_objective",
    "head_kind",
    "head_kinds",
    "list_head_configs",
    "load_head",
    "load_head_config",
    "load_meta",
    "load_reference_head",
    "parse_head_config",
    "register_head",
    "require_fit",
    "save_head",
    "squared_cosine",
    "write_tensors",
]
