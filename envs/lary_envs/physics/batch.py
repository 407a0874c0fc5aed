"""Physics of w worlds. `Physics` is all that SimEnv needs; MuJoCo's own batch engine implements it on CPU.

The second engine, `lary_envs.physics.warp.WarpPhysics`, is for CUDA; fields of both are live torch views.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import mujoco
import mujoco.batch
import numpy as np
import torch
from torch import Tensor

from lary_policy.errors import UnknownNameError, look_up

_STAGE_POS = mujoco.mjtStage.mjSTAGE_POS.value
# Outputs are copied only once bound, so all that is ever read is bound before the first call.
POSE_FIELDS = ("geom_xpos", "geom_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")
_FIELDS = (
    "time", "qpos", "qvel", "qacc_warmstart", "ctrl", "mocap_pos", "mocap_quat", "xpos", "xquat",
    *POSE_FIELDS,
)  # fmt: skip
_STAGE_NONE = mujoco.mjtStage.mjSTAGE_NONE.value


class Posed(Protocol):
    """Where everything is in w copies of one model.

    Attributes:
        device: Where the fields are.
        vary: Fields of MjModel that have a value for each world.
    """

    device: torch.device
    vary: tuple[str, ...]

    def field(self, name: str) -> Tensor:
        """Return a live view `[w, ...]` of a field of MjData, or of a model field named in `vary`."""


class Physics(Posed, Protocol):
    """Stepping w copies of one model."""

    def reset(
        self, qpos: Tensor, mocap_pos: Tensor, mocap_quat: Tensor, ctrl: Tensor, worlds: Tensor | None = None
    ) -> None:
        """Put worlds (indices `[n]`, all by default) at rest and leave the others untouched.

        They get positions `[n, nq]`, goals `[n, nmocap, 3]` with orientations `[n, nmocap, 4]`, and first
        commands `[n, nu]`.
        """

    def step(self, ctrl: Tensor, substeps: int) -> None:
        """Advance with `[w, nu]` commands; body, geom and camera poses are current afterwards."""


@runtime_checkable
class Bounded(Protocol):
    """An engine with buffers of a fixed size on a device."""

    def check_overflow(self) -> None:
        """Raise ContactOverflowError if a world lost contacts since the last check."""

    def close(self) -> None:
        """Free the buffers."""


class BatchPhysics:
    """`mujoco.batch.Batch`: w simulations on a C thread pool, bit-equal for any number of threads.

    Args:
        num_threads: Threads; all cores by default.
        vary: Fields of MjModel that have a value for each world; written through `field`. Constants that
            MuJoCo derives from them follow at the next reset of the world.

    Raises:
        UnknownNameError: A name in `vary` is no field with a value for each world.
    """

    def __init__(
        self, model: mujoco.MjModel, num_worlds: int, *, num_threads: int | None = None,
        vary: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.device, self.vary = torch.device("cpu"), tuple(vary)
        for name in self.vary:
            if name not in mujoco.batch.MODEL_FIELDS:
                raise UnknownNameError("model field", name, mujoco.batch.MODEL_FIELDS)
        model = copy.copy(model)
        # Else a world that diverges starts again from the model's defaults and nobody learns of it.
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        threads = min(num_threads or os.cpu_count() or 1, num_worlds)
        self._batch = mujoco.batch.Batch(model, num_worlds, threads)
        self._derives = any(name in mujoco.MjModel._setconst_inputs for name in self.vary)
        arrays = {name: self._batch.bind(name) for name in _FIELDS}
        arrays |= {name: self._batch.expand(name) for name in self.vary}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of outputs that are read-only
            self._views = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}

    def field(self, name: str) -> Tensor:
        """Return a live view `[w, ...]` of a field of MjData (float64) or of one named in `vary`.

        Outputs, such as poses, are read-only.

        Raises:
            UnknownNameError: No such field is kept.
        """
        return look_up("field", name, self._views)

    def reset(
        self, qpos: Tensor, mocap_pos: Tensor, mocap_quat: Tensor, ctrl: Tensor, worlds: Tensor | None = None
    ) -> None:
        """Put worlds at rest in the given state; see `Physics.reset`."""
        ids = None if worlds is None else sorted(set(worlds.tolist()))
        if self._derives:
            self._batch.set_const(ids)
        self._batch.reset(ids, stage=_STAGE_NONE)
        which = slice(None) if worlds is None else worlds
        values = {"qpos": qpos, "ctrl": ctrl, "mocap_pos": mocap_pos, "mocap_quat": mocap_quat}
        for name, value in values.items():
            view = self.field(name)
            view[which] = value.to(view).reshape(-1, *view.shape[1:])
        self._batch.forward(ids, stage=_STAGE_POS)

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
    vary: Sequence[str] = (),
    deterministic: bool = False,
) -> Physics:
    """Build the engine `mujoco`, `warp` or `auto` (`warp` on CUDA, else `mujoco`).

    `deterministic` is for `warp`, see `WarpPhysics`; the other engine always is.

    Raises:
        UnknownNameError: There is no such engine.
    """
    if name not in ("auto", "mujoco", "warp"):
        raise UnknownNameError("physics engine", name, ("auto", "mujoco", "warp"))
    if name == "warp" or (name == "auto" and device != "cpu"):
        from lary_envs.physics.warp import WarpPhysics

        return WarpPhysics(
            model, num_worlds, device=device, nconmax=contacts[0], njmax=contacts[1], vary=vary,
            deterministic=deterministic,
        )  # fmt: skip
    return BatchPhysics(model, num_worlds, num_threads=num_threads, vary=vary)
