"""Physics of w worlds in MuJoCo Warp: all buffers stay on the device and torch sees them without a copy.

Meant for CUDA; on Warp's CPU device it is hundreds of times slower than `BatchPhysics` and serves the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import mujoco
import torch
import warp as wp
from torch import Tensor

from lary_envs.devices import LaunchGraph, can_record, init_warp, launches_on, torch_device
from lary_policy.errors import ContactOverflowError, SimulationError, UnknownNameError

# What a reset clears besides the state it is given. Everything else is computed from these in each step.
_AT_REST = ("time", "qvel", "act", "qacc_warmstart", "qfrc_applied", "xfrc_applied")
# Model fields computed from others: they vary with them and are computed anew at each reset.
_BOUNDS, _INVERSE_MASS = ("geom_rbound", "geom_aabb"), ("body_invweight0", "dof_invweight0", "actuator_acc0")
_DERIVED = {
    "geom_size": _BOUNDS,
    "body_mass": ("body_subtreemass", *_INVERSE_MASS),
    "body_inertia": _INVERSE_MASS,
    "dof_armature": _INVERSE_MASS,
    # What derives from these is read for cameras and lights that track a body only.
    **dict.fromkeys(("cam_pos", "cam_quat", "light_pos", "light_dir"), ()),
}


class WarpPhysics:
    """MuJoCo Warp: w worlds in float32.

    On CUDA a control step is one graph, and nothing waits for the device: commands are copied into the
    engine's buffer, and an overflow is seen only when `check_overflow` or a reset of all worlds asks.

    Args:
        device: `cuda`, `cuda:1`, or `cpu` in tests.
        nconmax: Contacts a world may have on average over all worlds.
        njmax: Constraint rows that any one world may have.
        vary: Fields of MjModel that have a value for each world; written through `field`. Constants that
            MuJoCo derives from them follow at the next reset.
        graph: Whether to record steps as a CUDA graph; by default where that is possible.
        deterministic: Sum in a fixed order, twelve times slower on an H100 (1,024 worlds of pick_place: 62
            instead of 5.3 ms a control step). MuJoCo Warp 4.0 does not yet sort contacts, so two runs on CUDA
            are bit-equal without contacts only; on a CPU they always are.

    Attributes:
        device: The device of all buffers.
        data: MuJoCo Warp's data, shared with the renderer.
        vary: As given.

    Raises:
        UnknownNameError: Unknown device, or a name in `vary` that is no field that may vary.
        SimulationError: CUDA asked for and not there, or `graph=True` where none can be recorded.
    """

    def __init__(
        self, model: mujoco.MjModel, num_worlds: int, *, device: str | torch.device, nconmax: int,
        njmax: int, vary: Sequence[str] = (), graph: bool | None = None, deterministic: bool = False,
    ) -> None:  # fmt: skip
        self.device = torch_device(device)
        self.vary, self.num_worlds = tuple(vary), num_worlds
        self._limits = {"nconmax": nconmax, "njmax": njmax}
        init_warp()
        import mujoco_warp as mjw

        self._mjw = mjw
        self._record = can_record(self.device) if graph is None else self._must_record(graph)
        with launches_on(self.device):
            self.model = self._put_model(model)
            self.data = mjw.make_data(model, nworld=num_worlds, nconmax=nconmax, njmax=njmax)
        self._set_options(deterministic)
        self._views: dict[str, Tensor] = {}
        self._steps: dict[int, LaunchGraph] = {}
        place = partial(_place_all, self.model, self.data)
        self._place = LaunchGraph(place, self.device, record=self._record)

    def field(self, name: str) -> Tensor:
        """Return a live view `[w, ...]` of a field of MjData, or of a model field named in `vary`; no copy.

        Raises:
            UnknownNameError: There is no such field with a value for each world.
        """
        if name not in self._views:
            array = getattr(self.model if name in self._batch_sizes() else self.data, name, None)
            if not isinstance(array, wp.array) or array.shape[0] != self.num_worlds:
                raise UnknownNameError("field", name, [*vars(self.data), *self.vary])
            view = wp.to_torch(array)
            self._views[name] = (
                view.flatten(2) if view.ndim == 4 else view
            )  # matrices as rows of 9, as in MjData
        return self._views[name]

    def reset(
        self, qpos: Tensor, mocap_pos: Tensor, mocap_quat: Tensor, ctrl: Tensor, worlds: Tensor | None = None
    ) -> None:
        """Put worlds at rest in the given state; see `Physics.reset`. Other worlds keep every bit.

        Raises:
            ContactOverflowError: All worlds are reset and one had overflowed without being asked about.
        """
        if worlds is None:
            self.check_overflow()
        which = slice(None) if worlds is None else worlds.to(self.device, non_blocking=True)
        values = {"qpos": qpos, "mocap_pos": mocap_pos, "mocap_quat": mocap_quat, "ctrl": ctrl}
        for name, value in values.items():
            view = self.field(name)
            view[which] = value.to(view, non_blocking=True).reshape(-1, *view.shape[1:])
        for name in _AT_REST:
            view = self.field(name)
            if isinstance(which, Tensor):
                view.index_fill_(0, which, 0)  # a zero of Python would be copied to the device
            else:
                view.zero_()
        if len(self._batch_sizes()) > len(self.vary):
            only_bounds = set(self._batch_sizes()) <= {*self.vary, *_BOUNDS}
            groups = self._mjw.SetConstGroup.FIXED if only_bounds else self._mjw.SetConstGroup.ALL
            with launches_on(self.device):
                self._mjw.set_const(self.model, self.data, groups=groups)
        self._place()

    def step(self, ctrl: Tensor, substeps: int) -> None:
        """Advance with `[w, nu]` commands; body, geom, camera and light poses are current afterwards.

        Raises:
            ContactOverflowError: On a CPU, where looking costs nothing.
        """
        self.field("ctrl").copy_(ctrl, non_blocking=True)
        if substeps not in self._steps:
            launch = partial(_step_all, self.model, self.data, substeps)
            self._steps[substeps] = LaunchGraph(launch, self.device, record=self._record)
        self._steps[substeps]()
        if self.device.type == "cpu":
            self.check_overflow()

    def overflowed(self) -> bool:
        """Return whether a world ran out of contacts or constraint rows; waits for the device."""
        return bool((self.field("overflow") & (self._contact_bits | self._row_bits)).any())

    def check_overflow(self) -> None:
        """Report and clear overflows; waits for the device.

        Raises:
            ContactOverflowError: A world lost contacts since the last check, so its states are wrong.
        """
        if not self.overflowed():
            return
        flags = self.field("overflow").clone()
        self.field("overflow").zero_()
        bits = {"nconmax": self._contact_bits, "njmax": self._row_bits}
        full = [name for name, bit in bits.items() if (flags & bit).any()]
        worlds = (flags & (self._contact_bits | self._row_bits)).nonzero().flatten().tolist()
        raised = ", ".join(f"{name} from {self._limits[name]} to {2 * self._limits[name]}" for name in full)
        raise ContactOverflowError(
            expected=", ".join(f"{name} <= {self._limits[name]} a world" for name in full),
            got=f"more in worlds {worlds}",
            fix=f"Raise {raised} (`contacts` of the robot).",
        )

    def close(self) -> None:
        """Wait for the device and free graphs and views; the physics must not be used afterwards."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._steps.clear()
        self._views.clear()

    def _put_model(self, model: mujoco.MjModel) -> Any:
        batched = {f.name for f in fields(self._mjw.Model) if getattr(f.type, "shape", ("",))[:1] == ("*",)}
        valid = (batched - set(mujoco.MjModel._setconst_inputs)) | set(_DERIVED)
        for name in self.vary:
            if name not in valid:
                raise UnknownNameError("model field that may vary", name, valid)
        return self._mjw.put_model(model, batch_sizes=self._batch_sizes())

    def _batch_sizes(self) -> dict[str, int]:
        names = [name for field in self.vary for name in (field, *_DERIVED.get(field, ()))]
        return dict.fromkeys(names, self.num_worlds)

    def _set_options(self, deterministic: bool) -> None:
        mjw, option = self._mjw, self.model.opt
        option.warn_overflow = 0  # an error here instead of a line in a log
        option.deterministic = int(mjw.DeterminismType.ALL if deterministic else mjw.DeterminismType.NONE)
        option.graph_conditional = bool(wp.is_conditional_graph_supported()) or self.device.type == "cpu"
        kinds = mjw.OverflowType
        self._contact_bits = int(kinds.BROADPHASE | kinds.NARROWPHASE | kinds.CCD)
        self._row_bits = int(kinds.NEFC | kinds.NJMAX_NNZ)

    def _must_record(self, graph: bool) -> bool:
        if graph and not can_record(self.device):
            raise SimulationError(
                expected="a CUDA device with a memory pool for graph=True",
                got=f"'{self.device}'",
                fix="Leave graph out.",
            )
        return graph


def _step_all(model: Any, data: Any, substeps: int) -> None:
    import mujoco_warp as mjw

    for _ in range(substeps):
        mjw.step(model, data)
    _place_all(model, data)


def _place_all(model: Any, data: Any) -> None:
    """Poses of the state as it is now: a step leaves those of the state before it."""
    import mujoco_warp as mjw

    mjw.kinematics(model, data)
    mjw.camlight(model, data)
