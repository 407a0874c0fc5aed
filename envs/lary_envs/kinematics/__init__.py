"""Kinematic chains and inverse kinematics."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "IkSettings": "lary_envs.kinematics.ik",
    "IkState": "lary_envs.kinematics.ik",
    "KernelName": "lary_envs.kinematics.ik",
    "Layout": "lary_envs.kinematics.layout",
    "Matrix": "lary_envs.kinematics.chain",
    "SerialChain": "lary_envs.kinematics.chain",
    "TorchChain": "lary_envs.kinematics.chain",
    "craig_links": "lary_envs.kinematics.chain",
    "limit_length": "lary_envs.kinematics.ik",
    "make_ik": "lary_envs.kinematics.ik",
    "rot_x": "lary_envs.kinematics.chain",
    "rot_z": "lary_envs.kinematics.chain",
    "transform": "lary_envs.kinematics.chain",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import public names on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'. Public: {', '.join(__all__)}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
