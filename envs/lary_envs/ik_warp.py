"""Inverse kinematics of every arm in every world in one kernel launch.

Torch tensors go in and out without a copy, on torch's current stream, so that a CUDA graph may capture it.
One move takes, on one CPU core, 0.05 ms for 1 arm and 1.1 ms for 1,024 (`TorchIk`: 1.1 and 7 ms), but a
process pays 0.6 s to import Warp and, the first time on a machine, 2 s to compile the kernel.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
import warp as wp
from torch import Tensor

from lary_envs.chain import TorchChain
from lary_envs.devices import init_warp
from lary_envs.ik import IkSettings, IkState
from lary_envs.ik_kernel import MAX_JOINTS, Arms, Settings, ik_move
from lary_policy.errors import SimulationError

_HUGE = 1e300  # stands for "no limit"


class WarpIk:
    """The fused solver on the device of `chain`.

    Raises:
        SimulationError: The arms have more than seven joints, or `chain` is not in float64.
    """

    def __init__(self, chain: TorchChain, settings: IkSettings) -> None:
        if chain.num_joints > MAX_JOINTS or chain.home.dtype != torch.float64:
            raise SimulationError(
                expected=f"a float64 chain of at most {MAX_JOINTS} joints",
                got=f"{chain.num_joints} joints in {chain.home.dtype}",
                fix="Use TorchIk.",
            )
        init_warp()
        self._device = chain.home.device
        self._constants = (_arms(chain, settings.period_s), _settings(settings))

    def move(self, state: IkState, target: Tensor) -> None:
        """Update `state` in place, towards `[w, A, 6]` poses (m, rad; x, y, z, roll, pitch, yaw)."""
        arrays = (
            wp.from_torch(target),
            wp.from_torch(state.joints),
            wp.from_torch(state.goal_pos, dtype=wp.vec3d),
            wp.from_torch(state.goal_rot, dtype=wp.mat33d),
        )
        stream = None
        if self._device.type == "cuda":
            stream = wp.stream_from_torch(torch.cuda.current_stream(self._device))
        wp.launch(
            ik_move, dim=state.joints.shape[:2], inputs=[*self._constants, *arrays],
            device=wp.device_from_torch(self._device), stream=stream,
        )  # fmt: skip


def _arms(chain: TorchChain, period_s: float) -> Any:
    """Return the kernel's view of the arms' constants."""
    arms = Arms()
    arms.num_joints = wp.int32(chain.num_joints)
    for name in ("base", "links", "tool"):
        setattr(arms, name, wp.from_torch(getattr(chain, name), dtype=wp.mat44d))
    for name in ("lower", "upper", "home"):
        setattr(arms, name, wp.from_torch(getattr(chain, name)))
    arms.max_move = wp.from_torch((chain.max_velocity * period_s).clamp(max=_HUGE))
    return arms


def _settings(settings: IkSettings) -> Any:
    out = Settings()
    for field in fields(settings):
        if field.name != "period_s":
            setattr(out, field.name, min(getattr(settings, field.name), _HUGE))
    return out
