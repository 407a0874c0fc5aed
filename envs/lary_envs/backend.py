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

_STAGE_POS = mujoco.mjtStage.mjSTAGE_POS.value
# Outputs are copied only once bound, so all that is ever read is bound before the first call.
POSE_FIELDS = ("geom_xpos", "geom_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")
_FIELDS = ("qpos", "qvel", "ctrl", "mocap_pos", "xpos", "xquat", *POSE_FIELDS)
_STAGE_NONE = mujoco.mjtStage.mjSTAGE_NONE.value


class Physics(Protocol):
    """Stepping w copies of one model."""

    def reset(self, qpos: Tensor, mocap_pos: Tensor, ctrl: Tensor) -> None:
        """Put every world at rest in `[w, nq]` positions with goals at `[w, nmocap, 3]`."""

    def step(self, ctrl: Tensor, substeps: int) -> None:
        """Advance with `[w, nu]` commands; body, geom and camera poses are current afterwards."""

    def field(self, name: str) -> Tensor:
        """Return a live view `[w, ...]` of a field of MjData."""


class BatchPhysics:
    """`mujoco.batch.Batch`: w simulations on a C thread pool, bit-equal for any number of threads."""

    def __init__(self, model: mujoco.MjModel, num_worlds: int, *, num_threads: int | None = None) -> None:
        threads = min(num_threads or os.cpu_count() or 1, num_worlds)
        self._batch = mujoco.batch.Batch(model, num_worlds, threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of outputs that are read-only
            self._views = {name: torch.from_numpy(np.asarray(self._batch.bind(name))) for name in _FIELDS}

    def field(self, name: str) -> Tensor:
        """Return a live float64 view `[w, ...]` of a field of MjData; treat outputs as read-only."""
        return self._views[name]

    def reset(self, qpos: Tensor, mocap_pos: Tensor, ctrl: Tensor) -> None:
        """Put every world at rest in the given state."""
        self._batch.reset(stage=_STAGE_NONE)
        self.field("qpos").copy_(qpos)
        self.field("ctrl").copy_(ctrl)
        if mocap_pos.shape[1]:
            self.field("mocap_pos").copy_(mocap_pos.reshape(self.field("mocap_pos").shape))
        self._batch.forward()

    def step(self, ctrl: Tensor, substeps: int) -> None:
        """Advance by `substeps`; without the position stage all poses would be one substep old."""
        self.field("ctrl").copy_(ctrl)
        self._batch.step(nstep=substeps, stage=_STAGE_POS)
