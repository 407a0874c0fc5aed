"""Physics of w worlds. `Physics` is all that SimEnv needs; MuJoCo's own batch engine implements it on CPU.

A second engine (MuJoCo Warp on CUDA) fits behind the same three methods: its fields are torch views too.
"""

from __future__ import annotations

import os
import warnings
from typing import Protocol

import mujoco
import mujoco.batch
import numpy as np
import torch
from torch import Tensor

from lary_policy.errors import UnknownNameError

_STAGE_POS = mujoco.mjtStage.mjSTAGE_POS.value
# Outputs are copied only once bound, so all that is ever read is bound before the first call.
POSE_FIELDS = ("geom_xpos", "geom_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")
_FIELDS = ("qpos", "qvel", "ctrl", "mocap_pos", "mocap_quat", "xpos", "xquat", *POSE_FIELDS)
_STAGE_NONE = mujoco.mjtStage.mjSTAGE_NONE.value


class Physics(Protocol):
    """Stepping w copies of one model."""

    device: torch.device

    def reset(
        self, qpos: Tensor, mocap_pos: Tensor, mocap_quat: Tensor, ctrl: Tensor, worlds: Tensor | None = None
    ) -> None:
        """Put worlds (indices `[n]`, all by default) at rest and leave the others untouched.

        Args:
            qpos: Positions `[n, nq]`.
            mocap_pos: Goals `[n, nmocap, 3]`.
            mocap_quat: Their orientation `[n, nmocap, 4]`.
            ctrl: First commands `[n, nu]`.
            worlds: Which worlds.
        """

    def step(self, ctrl: Tensor, substeps: int) -> None:
        """Advance with `[w, nu]` commands; body, geom and camera poses are current afterwards."""

    def field(self, name: str) -> Tensor:
        """Return a live view `[w, ...]` of a field of MjData."""


class BatchPhysics:
    """`mujoco.batch.Batch`: w simulations on a C thread pool, bit-equal for any number of threads."""

    def __init__(self, model: mujoco.MjModel, num_worlds: int, *, num_threads: int | None = None) -> None:
        self.device = torch.device("cpu")
        threads = min(num_threads or os.cpu_count() or 1, num_worlds)
        self._batch = mujoco.batch.Batch(model, num_worlds, threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of outputs that are read-only
            self._views = {name: torch.from_numpy(np.asarray(self._batch.bind(name))) for name in _FIELDS}

    def field(self, name: str) -> Tensor:
        """Return a live float64 view `[w, ...]` of a field of MjData; treat outputs as read-only."""
        return self._views[name]

    def reset(
        self, qpos: Tensor, mocap_pos: Tensor, mocap_quat: Tensor, ctrl: Tensor, worlds: Tensor | None = None
    ) -> None:
        """Put worlds at rest in the given state; see `Physics.reset`."""
        ids = None if worlds is None else worlds.tolist()
        self._batch.reset(ids, stage=_STAGE_NONE)
        which = slice(None) if worlds is None else worlds
        values = {"qpos": qpos, "ctrl": ctrl, "mocap_pos": mocap_pos, "mocap_quat": mocap_quat}
        for name, value in values.items():
            view = self.field(name)
            view[which] = value.to(view).reshape(-1, *view.shape[1:])
        self._batch.forward(stage=_STAGE_POS)

    def step(self, ctrl: Tensor, substeps: int) -> None:
        """Advance by `substeps`; without the position stage all poses would be one substep old."""
        self.field("ctrl").copy_(ctrl)
        self._batch.step(nstep=substeps, stage=_STAGE_POS)


def make_physics(
    name: str,
    model: mujoco.MjModel,
    num_worlds: int,
    *,
    device: str,
    contacts: tuple[int, int],
    num_threads: int | None = None,
) -> Physics:
    """Build the engine `mujoco`, `warp` or `auto` (`warp` on CUDA, else `mujoco`).

    Raises:
        UnknownNameError: There is no such engine.
    """
    if name not in ("auto", "mujoco", "warp"):
        raise UnknownNameError("physics engine", name, ("auto", "mujoco", "warp"))
    if name == "warp" or (name == "auto" and device != "cpu"):
        from lary_envs.warp_backend import WarpPhysics

        return WarpPhysics(model, num_worlds, device=device, nconmax=contacts[0], njmax=contacts[1])
    return BatchPhysics(model, num_worlds, num_threads=num_threads)
