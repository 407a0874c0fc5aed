"""Heads on frozen latents: what they are, how they are trained, evaluated and stored."""

from lary_policy.heads.action_expert import ActionExpert, ActionExpertConfig
from lary_policy.heads.attentive_probe import AttentiveProbe, AttentiveProbeConfig
from lary_policy.heads.batches import Batch, LatentBatches
from lary_policy.heads.checkpoint import HeadMeta, build_head, load_head, load_meta, save_head
from lary_policy.heads.config import (
    HeadConfig,
    TrainConfig,
    build_action_expert,
    build_attentive_probe,
    list_head_configs,
    load_head_config,
    parse_head_config,
)
from lary_policy.heads.evaluate import (
    ActionEvaluation,
    ClassEvaluation,
    evaluate_action,
    evaluate_class,
    predict,
)
from lary_policy.heads.objective import Objective, action_objective, class_objective
from lary_policy.heads.pool import Pool, PoolConfig
from lary_policy.heads.train import EpochRecord, TrainResult, train

__all__ = [
    "ActionEvaluation",
    "ActionExpert",
    "ActionExpertConfig",
    "AttentiveProbe",
    "AttentiveProbeConfig",
    "Batch",
    "ClassEvaluation",
    "EpochRecord",
    "HeadConfig",
    "HeadMeta",
    "LatentBatches",
    "Objective",
    "Pool",
    "PoolConfig",
    "TrainConfig",
    "TrainResult",
    "action_objective",
    "build_action_expert",
    "build_attentive_probe",
    "build_head",
    "class_objective",
    "evaluate_action",
    "evaluate_class",
    "list_head_configs",
    "load_head",
    "load_head_config",
    "load_meta",
    "parse_head_config",
    "predict",
    "save_head",
    "train",
]
