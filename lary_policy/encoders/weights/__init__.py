"""Where weights come from, and how they are read without running code."""

from __future__ import annotations

from lary_policy.encoders.weights.configs import read_config
from lary_policy.encoders.weights.places import HubRepo, WeightsSource, WheelFile
from lary_policy.encoders.weights.resolve import (
    DRAWN,
    FOLDER_FILES,
    NO_WEIGHTS,
    Weights,
    WeightsStatus,
    find_weights,
    hub_is_reachable,
    resolve_weights,
)
from lary_policy.encoders.weights.tensors import (
    CONTAINERS,
    check_weight_file,
    load_strictly,
    raise_on_mismatch,
    read_tensors,
    rename,
    require_module,
    split_prefix,
    strip_prefixes,
)

__all__ = [
    "CONTAINERS",
    "DRAWN",
    "FOLDER_FILES",
    "NO_WEIGHTS",
    "HubRepo",
    "Weights",
    "WeightsSource",
    "WeightsStatus",
    "WheelFile",
    "check_weight_file",
    "find_weights",
    "hub_is_reachable",
    "load_strictly",
    "raise_on_mismatch",
    "read_config",
    "read_tensors",
    "rename",
    "require_module",
    "resolve_weights",
    "split_prefix",
    "strip_prefixes",
]
