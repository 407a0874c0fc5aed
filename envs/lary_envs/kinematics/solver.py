"""What a solver of inverse kinematics is: its settings, the state that it updates, and the choice of one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from lary_envs.kinematics.chain import TorchChain
from lary_policy.errors import UnknownNameError

type KernelName = Literal["auto", "warp", "torch"]
KERNELS = ("auto", "warp", "torch")


@dataclass(frozen=True)
class IkSettings:
    """How one move is computed."""

    max_step_m: float = 0.03  # longest move of the tool centre point (TCP)
    max_step_rad: float = 0.2  # largest turn of the TCP
    # Time of one move; with the joints' speed limits it bounds the change of every joint
    period_s: float = 0.05
    iterations: int = 2  # least-squares steps a move; two follow 0.4 m/s within 1 mm
    damping: float = 0.03  # trades accuracy near singularities for bounded joint steps
    # Used to try again where an iteration led away from the goal: it is out of reach, and steps of a
    # stretched arm with little damping would swing for ever
    strong_damping: float = 0.2
    null_gain: float = 0.01  # pull of redundant joints towards home, a fraction of the way for each iteration
    max_joint_step_rad: float = 0.3  # largest change of a joint in one iteration

    @classmethod
    def unlimited(cls, *, iterations: int, damping: float = 0.03) -> IkSettings:
        """Return settings without speed limits: one call solves for the target itself."""
        return cls(math.inf, math.inf, math.inf, iterations=iterations, damping=damping)


@dataclass
class IkState:
    """What a solver reads and writes in place, for w worlds and A arms of n joints, float64."""

    joints: Tensor  # `[w, A, n]` commanded joint angles, rad
    goal_pos: Tensor  # `[w, A, 3]` the last target after the speed limit, metres
    goal_rot: Tensor  # `[w, A, 3, 3]` its rotation

    @classmethod
    def at_home(cls, chain: TorchChain, num_worlds: int) -> IkState:
        """Return the state in which every arm is, and wants to be, at home."""
        joints = chain.home.expand(num_worlds, *chain.home.shape).clone()
        pos, rot = chain.forward(joints)
        return cls(joints, pos.contiguous(), rot.contiguous())


class IkSolver(Protocol):
    """Moves the commanded joints of all arms towards target poses."""

    def move(self, state: IkState, target: Tensor) -> None:
        """Update `state` in place, towards `[w, A, 6]` poses (m, rad; x, y, z, roll, pitch, yaw)."""


def make_ik(chain: TorchChain, settings: IkSettings, *, kernel: KernelName = "auto") -> IkSolver:
    """Choose a solver for the device of `chain`.

    `auto` takes Warp on CUDA (one launch instead of about a hundred) and torch on a CPU, where Warp is
    faster for each call but costs seconds to import: see `lary_envs.kinematics.ik_warp` for figures.

    Raises:
        UnknownNameError: `kernel` is none of `auto`, `warp`, `torch`.
    """
    if kernel not in KERNELS:
        raise UnknownNameError("IK kernel", kernel, KERNELS)
    on_cuda = chain.home.device.type == "cuda"
    if kernel == "torch" or (kernel == "auto" and not on_cuda):
        from lary_envs.kinematics.ik import TorchIk

        return TorchIk(chain, settings)
    from lary_envs.kinematics.ik_warp import WarpIk

    return WarpIk(chain, settings)
