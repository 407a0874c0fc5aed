"""Heads on frozen latents: what they are, how they are trained, evaluated and stored."""

from __future__ import annotations

from lary_policy.heads.attentive import AttentiveProbe, AttentiveProbeConfig, Mlp
from lary_policy.heads.dit import DiffusionExpert, DiffusionExpertConfig, squared_cosine
from lary_policy.heads.files import HeadMeta, build_head, count_parameters, load_head, load_meta, save_head
from lary_policy.heads.mlp import ActionExpert, ActionExpertConfig
from lary_policy.heads.pool import LatentShape, Pool, PoolConfig, TokenGrid
from lary_policy.heads.reference import load_reference_head
from lary_policy.heads.registry import (
    Head,
    HeadConfig,
    ModelConfig,
    TrainConfig,
    build_action_expert,
    build_attentive_probe,
    build_diffusion_expert,
    list_head_configs,
    load_head_config,
    parse_head_config,
)

__all__ = [
    "ActionExpert",
    "ActionExpertConfig",
    "AttentiveProbe",
    "AttentiveProbeConfig",
    "DiffusionExpert",
    "DiffusionExpertConfig",
    "Head",
    "HeadConfig",
    "HeadMeta",
    "LatentShape",
    "Mlp",
    "ModelConfig",
    "Pool",
    "PoolConfig",
    "TokenGrid",
    "TrainConfig",
    "build_action_expert",
    "build_attentive_probe",
    "build_diffusion_expert",
    "build_head",
    "count_parameters",
    "list_head_configs",
    "load_head",
    "load_head_config",
    "load_meta",
    "load_reference_head",
    "parse_head_config",
    "save_head",
    "squared_cosine",
]
