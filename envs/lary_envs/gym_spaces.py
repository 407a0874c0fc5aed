"""Spaces of actions and observations of the gymnasium environments."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
import numpy as np

from lary_envs.robot import Robot
from lary_policy.embodiment import Embodiment


def action_space(layout: Embodiment, robot: Robot, *, relative: bool) -> gymnasium.spaces.Box:
    """Return the box of one action: workspace (m), +-pi (rad), +-1 (quaternions) and opening 0 to 1.

    Relative positions are bounded by 3 cm and turns by 0.2 rad, the controller's speed limit.
    """
    low, high = np.full(layout.action_dim, -1.0), np.full(layout.action_dim, 1.0)
    boxes = {arm.side: np.array(arm.workspace_m) for arm in robot.arms}
    for group in layout.groups:
        index = list(group.indices)
        if group.kind == "position":
            low[index], high[index] = (-0.03, 0.03) if relative else boxes[group.arm]
        elif group.kind == "gripper":
            low[index], high[index] = 0.0, 1.0
        elif not group.convention.startswith("quat"):
            turn = 0.2 if relative else np.pi
            low[index], high[index] = -turn, turn
    return gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def observation_space(layout: Embodiment, cameras: Sequence[str], image_px: int) -> gymnasium.spaces.Dict:
    """Return the space of one observation."""
    frame = gymnasium.spaces.Box(0, 255, (image_px, image_px, 3), np.uint8)
    state = gymnasium.spaces.Box(-np.inf, np.inf, (layout.action_dim,), np.float32)
    pixels = gymnasium.spaces.Dict(dict.fromkeys(cameras, frame))
    return gymnasium.spaces.Dict({"pixels": pixels, "agent_pos": state})
