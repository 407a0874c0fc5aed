"""Actions: embodiments, rotations, contracts, targets, their mean and deviation, and the one codec."""

from __future__ import annotations

from lary_policy.actions.codec import ActionCodec, RelativeFrame
from lary_policy.actions.contract import ActionContract, require_stats
from lary_policy.actions.embodiment import (
    ActionGroup,
    Embodiment,
    GroupKind,
    list_embodiments,
    load_embodiment,
    register_embodiment,
)
from lary_policy.actions.rotation import (
    axis_angle_to_matrix,
    euler_xyz_to_matrix,
    geodesic_angle_rad,
    matrix_to_axis_angle,
    matrix_to_euler_xyz,
    matrix_to_quat_wxyz,
    matrix_to_quat_xyzw,
    quat_wxyz_to_matrix,
    quat_xyzw_to_matrix,
)
from lary_policy.actions.scaling import (
    UNKNOWN_ROBOTS,
    RobotAccumulator,
    RobotStatistics,
    Scaling,
    Unknown,
    fit_robots,
    fit_scaling,
)
from lary_policy.actions.statistics import STD_FLOOR, ActionStats, RunningStatistics, floored
from lary_policy.actions.targets import (
    ROTATIONS,
    ActionTarget,
    action_target,
    build_targets,
    list_action_targets,
    target_embodiment,
)

__all__ = [
    "ROTATIONS",
    "STD_FLOOR",
    "UNKNOWN_ROBOTS",
    "ActionCodec",
    "ActionContract",
    "ActionGroup",
    "ActionStats",
    "ActionTarget",
    "Embodiment",
    "GroupKind",
    "RelativeFrame",
    "RobotAccumulator",
    "RobotStatistics",
    "RunningStatistics",
    "Scaling",
    "Unknown",
    "action_target",
    "axis_angle_to_matrix",
    "build_targets",
    "euler_xyz_to_matrix",
    "fit_robots",
    "fit_scaling",
    "floored",
    "geodesic_angle_rad",
    "list_action_targets",
    "list_embodiments",
    "load_embodiment",
    "matrix_to_axis_angle",
    "matrix_to_euler_xyz",
    "matrix_to_quat_wxyz",
    "matrix_to_quat_xyzw",
    "quat_wxyz_to_matrix",
    "quat_xyzw_to_matrix",
    "register_embodiment",
    "require_stats",
    "target_embodiment",
]
