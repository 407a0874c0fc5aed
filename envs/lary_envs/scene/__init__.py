"""Scenes: table, cameras, objects, menagerie models."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "BOX": "lary_envs.scene.parts",
    "CYLINDER": "lary_envs.scene.parts",
    "CameraPlace": "lary_envs.scene.cameras",
    "DARK": "lary_envs.scene.parts",
    "GREEN": "lary_envs.scene.objects",
    "HITS_TASK": "lary_envs.scene.parts",
    "InitialStates": "lary_envs.scene.initial",
    "Part": "lary_envs.scene.parts",
    "RED": "lary_envs.scene.objects",
    "STEEL": "lary_envs.scene.parts",
    "TIMESTEP_S": "lary_envs.scene.table",
    "Vec3": "lary_envs.scene.cameras",
    "WHITE": "lary_envs.scene.parts",
    "add_box": "lary_envs.scene.objects",
    "add_camera": "lary_envs.scene.cameras",
    "add_cube": "lary_envs.scene.objects",
    "add_goal_disc": "lary_envs.scene.objects",
    "add_goal_plate": "lary_envs.scene.objects",
    "add_goal_sphere": "lary_envs.scene.objects",
    "add_gripper_servo": "lary_envs.scene.parts",
    "add_hand": "lary_envs.scene.parts",
    "add_hinge": "lary_envs.scene.parts",
    "add_materials": "lary_envs.scene.parts",
    "add_part": "lary_envs.scene.parts",
    "add_two_spheres": "lary_envs.scene.objects",
    "build_model": "lary_envs.scene.table",
    "place_two_spheres": "lary_envs.scene.objects",
    "placed": "lary_envs.scene.parts",
    "position_servo": "lary_envs.scene.parts",
    "quat_z": "lary_envs.scene.parts",
    "require_counterpart": "lary_envs.scene.menagerie",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import public names on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'. Public: {', '.join(__all__)}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
