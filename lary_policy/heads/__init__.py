"""Heads on frozen latents: what they are, how they are trained, evaluated and stored."""

from lary_policy.heads.action_expert import ActionExpert, ActionExpertConfig
from lary_policy.heads.attentive_probe import AttentiveProbe, AttentiveProbeConfig
from lary_policy.heads.batches import Batch, LatentBatches
from lary_policy.heads.checkpoint import (
    HeadMeta,
    build_head,
    count_parameters,
    load_head,
    load_meta,
    save_head,
)
from lary_policy.heads.class_metrics import ClassScores, tail_f1, top_k_accuracy, train_counts
from lary_policy.heads.class_sweep import REFERENCE_SWEEP, HeadStack
from lary_policy.heads.config import (
    Head,
    HeadConfig,
    TrainConfig,
    build_action_expert,
    build_attentive_probe,
    build_diffusion_expert,
    list_head_configs,
    load_head_config,
    parse_head_config,
)
from lary_policy.heads.dit import DiffusionExpert, DiffusionExpertConfig
from lary_policy.heads.evaluate import (
    ActionEvaluation,
    ClassEvaluation,
    evaluate_action,
    evaluate_class,
    predict,
)
from lary_policy.heads.fit import build_stack, fit
from lary_policy.heads.history import EpochRecord, TrainResult
from lary_policy.heads.loggers import MetricLogger, list_loggers, open_logger
from lary_policy.heads.objective import (
    Objective,
    action_objective,
    class_objective,
    default_objective,
    diffusion_objective,
)
from lary_policy.heads.pool import Pool, PoolConfig
from lary_policy.heads.reference import load_reference_head
from lary_policy.heads.reference_row import reference_row
from lary_policy.heads.targets import (
    ActionTarget,
    action_target,
    build_targets,
    list_action_targets,
    target_embodiment,
)
from lary_policy.heads.train import train
from lary_policy.heads.workers import is_main_process

__all__ = [
    "REFERENCE_SWEEP",
    "ActionEvaluation",
    "ActionExpert",
    "ActionExpertConfig",
    "ActionTarget",
    "AttentiveProbe",
    "AttentiveProbeConfig",
    "Batch",
    "ClassEvaluation",
    "ClassScores",
    "DiffusionExpert",
    "DiffusionExpertConfig",
    "EpochRecord",
    "Head",
    "HeadConfig",
    "HeadMeta",
    "HeadStack",
    "LatentBatches",
    "MetricLogger",
    "Objective",
    "Pool",
    "PoolConfig",
    "TrainConfig",
    "TrainResult",
    "action_objective",
    "action_target",
    "build_action_expert",
    "build_attentive_probe",
    "build_diffusion_expert",
    "build_head",
    "build_stack",
    "build_targets",
    "class_objective",
    "count_parameters",
    "default_objective",
    "diffusion_objective",
    "evaluate_action",
    "evaluate_class",
    "fit",
    "is_main_process",
    "list_action_targets",
    "list_head_configs",
    "list_loggers",
    "load_head",
    "load_head_config",
    "load_meta",
    "load_reference_head",
    "open_logger",
    "parse_head_config",
    "predict",
    "reference_row",
    "save_head",
    "tail_f1",
    "target_embodiment",
    "top_k_accuracy",
    "train",
    "train_counts",
]
